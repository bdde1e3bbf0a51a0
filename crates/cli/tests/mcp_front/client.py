"""The official Python SDK as an agent: the same steps as client.mjs."""

import asyncio
import json
import sys

from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import create_mcp_http_client, streamable_http_client

mode, text = sys.argv[1:]
said = json.loads(text)


def say(step):
    print(json.dumps(step), flush=True)


def dump(result):
    return result.model_dump(mode="json", by_alias=True, exclude_none=True)


async def line():
    await asyncio.to_thread(sys.stdin.readline)


async def main():
    if "url" in said:
        http = create_mcp_http_client(headers={"Authorization": f"Bearer {said['key']}"})
        server = streamable_http_client(said["url"], http_client=http)
    else:
        server = StdioServerParameters(command=said["command"], args=said["args"], env=said["env"])
    connect = {"old": "legacy", "new": "auto"}[mode]
    async with Client(server, mode=connect) as client:
        tools = await client.list_tools()
        say({"tools": [tool.name for tool in tools.tools]})
        say(dump(await client.call_tool("read_text_file", {"path": said["read"]})))
        change = {"path": said["write"], "content": f"by {mode}"}
        say(dump(await client.call_tool("write_file", change)))
        await line()
        say(dump(await client.call_tool("write_file", change)))
        await line()


asyncio.run(main())
