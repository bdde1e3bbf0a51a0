"""The Python interpreter: takes the text of a program with each run, and calls its `run(input)`."""

import asyncio
import inspect
import json
import linecache
import os
import sys
import traceback
import types

import loop  # noqa: F401: gives asyncio a loop that works here
import modules
import tally  # noqa: F401: agents import it
from componentize_py_types import Err
from wit_world.imports import environment

NAME = "agent"
FILE = "agent.py"
# Of a traceback, the innermost places in the program itself.
PLACES_MAX = 8

# What is said of a module that is not there.
NO_MODULE = "agents have what the interpreter was built with, and no packages"

modules.preload()
# All that there is has been imported: nobody looks for more in folders that are gone.
sys.path.clear()
sys.path_importer_cache.clear()


class Refused(Exception):
    """What is wrong with a program or its result, rather than what it raised."""


class WitWorld:
    def run(self, code, input):
        # What the variables were when the interpreter was built is nobody's business.
        os.environ.clear()
        os.environ.update(environment.get_environment())
        try:
            return _encoded(_called(_loaded(code), json.loads(input)))
        except Refused as refused:
            raise Err(str(refused)) from None
        except BaseException as error:
            raise Err(_described(error)) from None
        finally:
            sys.stdout.flush()


def _loaded(code):
    agent = types.ModuleType(NAME)
    agent.__file__ = FILE
    sys.modules[NAME] = agent
    linecache.cache[FILE] = (len(code), None, code.splitlines(keepends=True), FILE)
    exec(compile(code, FILE, "exec", dont_inherit=True), agent.__dict__)
    run = getattr(agent, "run", None)
    if not callable(run):
        raise Refused("the program defines no function `run(input)`")
    return run


def _called(run, input):
    result = run(input)
    if inspect.iscoroutine(result):
        result = asyncio.run(result)
    return result


def _encoded(result):
    try:
        return json.dumps(result, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise Refused(f"run returned what JSON does not have: {error}") from None


def _described(error):
    """Type and message, then where in the program it was."""
    name = type(error).__name__
    if isinstance(error, tally.ToolError):
        name = f"{name} [{error.code}]"
    try:
        message = str(error)
    except Exception:
        message = "(its message cannot be had)"
    if isinstance(error, ModuleNotFoundError):
        message = f"{message}: {NO_MODULE}"
    lines = [f"{name}: {message}" if message else name]
    for code, number in _places(error)[-PLACES_MAX:]:
        source = linecache.getline(FILE, number).strip()
        lines.append(f"  at {FILE}:{number} in {code.co_name}: {source}")
    return "\n".join(lines)


def _places(error):
    """Where in the program, outermost first. Other files are not read for this: they are gone."""
    frames = traceback.walk_tb(error.__traceback__)
    return [(frame.f_code, line) for frame, line in frames if frame.f_code.co_filename == FILE]
