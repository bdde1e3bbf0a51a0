# Runs an agent in a process of its own. What the host and it say to each other are lines of JSON.
import json, os, sys, types

said = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
heard = os.fdopen(os.dup(0), "r", encoding="utf-8", newline="\n")
os.dup2(2, 1)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)


def say(what):
    said.write(json.dumps(what) + "\n")
    said.flush()


class ToolError(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code = code
        self.message = message


def call_tool(name, args=None, **more):
    args = dict(args or {}, **more)
    say({"call": {"tool": name, "args": json.dumps(args)}})
    answer = json.loads(heard.readline())
    if "failed" in answer:
        failed = json.loads(answer["failed"])
        raise ToolError(failed["code"], failed["message"])
    return json.loads(answer["given"])


def fetch(*_args, **_more):
    raise PermissionError("there is no network in a LIGHT sandbox")


PROCESSES = ("subprocess.Popen", "os.system", "os.fork", "os.forkpty", "os.exec", "os.posix_spawn")
NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.bind", "socket.sendto")


def audit(event, args):
    kind = "process" if event in PROCESSES else "network" if event in NETWORK else None
    if kind:
        named = (arg for arg in args if isinstance(arg, (str, bytes, tuple)))
        wanted = next((os.fsdecode(a) if isinstance(a, bytes) else str(a) for a in named), event)
        say({"denied": {"capability": kind, "wanted": wanted}})
        raise PermissionError(f"{kind} is not granted: {wanted}")


module = types.ModuleType("tally")
module.call_tool, module.ToolError, module.fetch = call_tool, ToolError, fetch
sys.modules["tally"] = module
order = json.loads(heard.readline())
sys.addaudithook(audit)
try:
    agent = types.ModuleType("agent")
    sys.modules["agent"] = agent
    exec(compile(order["code"], "agent.py", "exec"), agent.__dict__)
    if not callable(getattr(agent, "run", None)):
        raise TypeError("the agent must define a function `run(input)`")
    answer = {"result": json.dumps(agent.run(json.loads(order["input"])))}
except BaseException as error:
    code = f" [{error.code}]" if isinstance(error, ToolError) else ""
    answer = {"raised": f"{type(error).__name__}{code}: {error}"}
say(answer)
heard.readline()
