"""The official SDKs of OpenAI and Anthropic against the simulator whose URL is the argument. What
they read is one JSON document on standard output."""

import json
import sys

import anthropic
import openai

URL = sys.argv[1]
KEY = "sim-key"
MODEL = "sim-small"
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["n"],
    "properties": {"n": {"type": "integer", "minimum": 5}},
}


def open_ai(key=KEY, retries=2):
    return openai.OpenAI(api_key=key, base_url=f"{URL}/v1", max_retries=retries)


def open_anthropic(key=KEY, retries=2):
    return anthropic.Anthropic(api_key=key, base_url=URL, max_retries=retries)


def ask(content):
    return [{"role": "user", "content": content}]


def status(call):
    try:
        call()
    except (openai.APIStatusError, anthropic.APIStatusError) as error:
        return error.status_code
    return "no error"


def chat():
    def create(client, content, model=MODEL, **more):
        return client.chat.completions.create(model=model, messages=ask(content), **more)

    client = open_ai()
    whole = create(client, "weather")
    seen = {"streamed": "", "pieces": 0}
    stream = create(client, "weather", stream=True, stream_options={"include_usage": True})
    for chunk in stream:
        choice = chunk.choices[0] if chunk.choices else None
        if choice and choice.delta.content:
            seen["streamed"] += choice.delta.content
            seen["pieces"] += 1
        if choice and choice.finish_reason:
            seen["streamed_finish"] = choice.finish_reason
        if chunk.usage:
            seen["streamed_output_tokens"] = chunk.usage.completion_tokens
    shape = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}}
    number = create(client, "a number", response_format=shape)
    short = create(client, "weather", max_completion_tokens=2)
    return {
        **seen,
        "text": whole.choices[0].message.content,
        "finish": whole.choices[0].finish_reason,
        "input_tokens": whole.usage.prompt_tokens,
        "output_tokens": whole.usage.completion_tokens,
        "json": json.loads(number.choices[0].message.content),
        "short_finish": short.choices[0].finish_reason,
        "length": "length",
        "after_429": create(client, "limited chat").choices[0].message.content,
        "broken": status(lambda: create(open_ai(retries=0), "broken")),
        "unauthorized": status(lambda: create(open_ai("sim-wrong", 0), "weather")),
        "unknown_model": status(lambda: create(open_ai(), "weather", model="real-one")),
    }


def responses():
    def create(client, said, model=MODEL, **more):
        return client.responses.create(model=model, input=said, **more)

    client = open_ai()
    whole = create(client, "weather")
    seen = {"streamed": "", "pieces": 0}
    for event in create(client, "weather", stream=True):
        if event.type == "response.output_text.delta":
            seen["streamed"] += event.delta
            seen["pieces"] += 1
        if event.type == "response.completed":
            seen["streamed_finish"] = event.response.status
            seen["streamed_output_tokens"] = event.response.usage.output_tokens
    shape = {"format": {"type": "json_schema", "name": "n", "strict": True, "schema": SCHEMA}}
    short = create(client, "weather", max_output_tokens=2)
    return {
        **seen,
        "text": whole.output_text,
        "finish": whole.status,
        "input_tokens": whole.usage.input_tokens,
        "output_tokens": whole.usage.output_tokens,
        "json": json.loads(create(client, "a number", text=shape).output_text),
        "short_finish": short.incomplete_details.reason,
        "length": "max_output_tokens",
        "after_429": create(client, "limited responses").output_text,
        "broken": status(lambda: create(open_ai(retries=0), "broken")),
        "unauthorized": status(lambda: create(open_ai("sim-wrong", 0), "weather")),
        "unknown_model": status(lambda: create(open_ai(), "weather", model="real-one")),
    }


def messages():
    def create(client, content, model=MODEL, max_tokens=100, **more):
        said = ask(content)
        return client.messages.create(model=model, max_tokens=max_tokens, messages=said, **more)

    client = open_anthropic()
    whole = create(client, "weather")
    seen = {"streamed": "", "pieces": 0}
    with client.messages.stream(model=MODEL, max_tokens=100, messages=ask("weather")) as stream:
        for text in stream.text_stream:
            seen["streamed"] += text
            seen["pieces"] += 1
        last = stream.get_final_message()
    shape = {"format": {"type": "json_schema", "schema": SCHEMA}}
    return {
        **seen,
        "streamed_finish": last.stop_reason,
        "streamed_output_tokens": last.usage.output_tokens,
        "text": whole.content[0].text,
        "finish": whole.stop_reason,
        "input_tokens": whole.usage.input_tokens,
        "output_tokens": whole.usage.output_tokens,
        "json": json.loads(create(client, "a number", output_config=shape).content[0].text),
        "short_finish": create(client, "weather", max_tokens=2).stop_reason,
        "length": "max_tokens",
        "after_429": create(client, "limited messages").content[0].text,
        "broken": status(lambda: create(open_anthropic(retries=0), "broken")),
        "unauthorized": status(lambda: create(open_anthropic("sim-wrong", 0), "weather")),
        "unknown_model": status(lambda: create(open_anthropic(), "weather", model="real-one")),
    }


COUNTED = open_anthropic().messages.count_tokens(model=MODEL, messages=ask("weather"))
SEEN = {
    "chat": chat(),
    "responses": responses(),
    "messages": messages(),
    "models": {
        "openai": [model.id for model in open_ai().models.list()],
        "anthropic": [model.id for model in open_anthropic().models.list()],
    },
    "counted": COUNTED.input_tokens,
}
json.dump(SEEN, sys.stdout)
