"""The OpenAI Python SDK against the gateway.

What the engine says must reach the client unchanged, so many tests ask an engine and the gateway
the same thing and compare the answers.
"""

import json
import threading
import unittest

import openai

from _fleet import ENGINES, MODEL, URL, running_requests, wait_until

MESSAGES = [{"role": "user", "content": "Name three rivers."}]
# A model may end an answer by itself; this one may not.
EXACT = {"extra_body": {"ignore_eos": True}}
# What differs between two answers to the same request, whoever gives them: of the last, what the
# engine had in its cache.
VOLATILE = {"id", "created", "system_fingerprint", "prompt_tokens_details"}
# Strict and narrow, so that even a model of random weights ends its call.
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a town.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"town": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["town"],
            "additionalProperties": False,
        },
    },
}
CALL_WEATHER = {"type": "function", "function": {"name": "weather"}}


def client(url=URL, **options):
    """A client that never tries twice: a failure must be seen."""
    return openai.OpenAI(
        base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60, **options
    )


def shape(value):
    """The keys and the types of a JSON value, without its contents."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items() if key not in VOLATILE}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def stable(value):
    """A JSON value without what differs from answer to answer."""
    if isinstance(value, dict):
        return {
            key: stable(item)
            for key, item in value.items()
            if key not in VOLATILE and not str(item).startswith(("call_", "chatcmpl-tool-"))
        }
    return [stable(item) for item in value] if isinstance(value, list) else value


class Answers(unittest.TestCase):
    """Whole answers."""

    def both(self, call):
        """The same call through the gateway and to an engine, as JSON values."""
        return [call(client(url)).model_dump(exclude_unset=True) for url in (URL, ENGINES[0])]

    def test_chat_has_content_a_reason_to_stop_and_usage(self):
        answer = client().chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=8, **EXACT)
        self.assertEqual(answer.model, MODEL)
        self.assertEqual(answer.choices[0].message.role, "assistant")
        self.assertTrue(answer.choices[0].message.content)
        self.assertEqual(answer.choices[0].finish_reason, "length")
        self.assertEqual(answer.usage.completion_tokens, 8)
        self.assertEqual(
            answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens
        )

    def test_a_completion_has_text_and_usage(self):
        answer = client().completions.create(model=MODEL, prompt="Three rivers:", max_tokens=8, **EXACT)
        self.assertTrue(answer.choices[0].text)
        self.assertEqual(answer.usage.completion_tokens, 8)

    def test_an_answer_has_the_shape_that_the_engine_gave_it(self):
        def chat(to):
            return to.chat.completions.create(
                model=MODEL, messages=MESSAGES, max_tokens=8, temperature=0, seed=1
            )

        through, direct = self.both(chat)
        self.assertEqual(shape(through), shape(direct))

    def test_logprobs_are_preserved(self):
        def chat(to):
            return to.chat.completions.create(
                model=MODEL,
                messages=MESSAGES,
                max_tokens=4,
                temperature=0,
                seed=1,
                logprobs=True,
                top_logprobs=2,
                **EXACT,
            )

        through, direct = self.both(chat)
        tokens = through["choices"][0]["logprobs"]["content"]
        self.assertEqual(len(tokens), 4)
        self.assertEqual(len(tokens[0]["top_logprobs"]), 2)
        self.assertEqual(shape(through), shape(direct))

    def test_tool_calls_are_preserved(self):
        def chat(to):
            return to.chat.completions.create(
                model=MODEL,
                messages=MESSAGES,
                max_tokens=1500,
                temperature=0,
                seed=1,
                tools=[WEATHER],
                tool_choice=CALL_WEATHER,
            )

        through, direct = self.both(chat)
        call = through["choices"][0]["message"]["tool_calls"][0]
        self.assertEqual(call["type"], "function")
        self.assertEqual(call["function"]["name"], "weather")
        self.assertIn(json.loads(call["function"]["arguments"])["town"], ["Paris", "Rome"])
        self.assertEqual(stable(through), stable(direct))

    def test_the_models_of_the_fleet_are_listed(self):
        self.assertIn(MODEL, [model.id for model in client().models.list()])

    def test_every_answer_has_a_request_id(self):
        raw = client().chat.completions.with_raw_response.create(
            model=MODEL, messages=MESSAGES, max_tokens=1, extra_headers={"X-Request-ID": "mine-7"}
        )
        self.assertEqual(raw.headers["x-request-id"], "mine-7")
        raw = client().chat.completions.with_raw_response.create(
            model=MODEL, messages=MESSAGES, max_tokens=1
        )
        self.assertTrue(raw.headers["x-request-id"])


class Streams(unittest.TestCase):
    """Answers in pieces."""

    def test_without_usage_no_chunk_has_usage_and_none_is_empty(self):
        chunks = list(
            client().chat.completions.create(
                model=MODEL, messages=MESSAGES, max_tokens=8, stream=True, **EXACT
            )
        )
        self.assertTrue(all(chunk.usage is None for chunk in chunks))
        self.assertTrue(all(chunk.choices for chunk in chunks), "a chunk without choices")
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertTrue("".join(chunk.choices[0].delta.content or "" for chunk in chunks))
        self.assertEqual(chunks[-1].choices[0].finish_reason, "length")

    def test_with_usage_the_last_chunk_alone_has_it(self):
        chunks = list(
            client().chat.completions.create(
                model=MODEL,
                messages=MESSAGES,
                max_tokens=8,
                stream=True,
                stream_options={"include_usage": True},
                **EXACT,
            )
        )
        self.assertEqual(chunks[-1].choices, [])
        self.assertEqual(chunks[-1].usage.completion_tokens, 8)
        self.assertTrue(all(chunk.usage is None for chunk in chunks[:-1]))

    def test_with_continuous_usage_every_chunk_has_it(self):
        chunks = list(
            client().chat.completions.create(
                model=MODEL,
                messages=MESSAGES,
                max_tokens=8,
                stream=True,
                stream_options={"include_usage": True, "continuous_usage_stats": True},
                **EXACT,
            )
        )
        self.assertTrue(all(chunk.usage is not None for chunk in chunks))
        self.assertEqual(chunks[-1].usage.completion_tokens, 8)

    def test_a_completion_streams_the_text_that_it_would_answer(self):
        asked = {"model": MODEL, "prompt": "Three rivers:", "max_tokens": 8}
        asked |= {"temperature": 0, "seed": 1, **EXACT}
        whole = client().completions.create(**asked)
        pieces = client().completions.create(**asked, stream=True)
        text = "".join(piece.choices[0].text for piece in pieces)
        self.assertEqual(text, whole.choices[0].text)

    def test_a_tool_call_streams_as_it_would_be_answered(self):
        asked = {"model": MODEL, "messages": MESSAGES, "max_tokens": 1500, "temperature": 0}
        asked |= {"tools": [WEATHER], "tool_choice": CALL_WEATHER}
        arguments = ""
        for chunk in client().chat.completions.create(**asked, stream=True):
            for call in chunk.choices[0].delta.tool_calls or []:
                arguments += call.function.arguments or ""
        whole = client().chat.completions.create(**asked).choices[0].message.tool_calls[0]
        self.assertEqual(json.loads(arguments), json.loads(whole.function.arguments))

    def test_many_streams_at_once_all_end(self):
        ended = []

        def one():
            stream = client().chat.completions.create(
                model=MODEL, messages=MESSAGES, max_tokens=16, stream=True, **EXACT
            )
            ended.append(list(stream)[-1].choices[0].finish_reason)

        threads = [threading.Thread(target=one) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(ended, ["length"] * 16)


class Errors(unittest.TestCase):
    """Errors, as the SDK's own exceptions."""

    def check(self, kind, status, call):
        with self.assertRaises(kind) as caught:
            call()
        self.assertEqual(caught.exception.status_code, status)
        self.assertTrue(caught.exception.body["message"])
        return caught.exception

    def test_an_unknown_model_is_not_found(self):
        error = self.check(
            openai.NotFoundError,
            404,
            lambda: client().chat.completions.create(model="nope", messages=MESSAGES),
        )
        self.assertEqual(error.param, "model")
        self.assertIn("nope", error.body["message"])

    def test_an_unknown_model_is_not_found_by_a_stream_either(self):
        self.check(
            openai.NotFoundError,
            404,
            lambda: client().chat.completions.create(model="nope", messages=MESSAGES, stream=True),
        )

    def test_a_bad_parameter_is_a_bad_request_that_names_it(self):
        error = self.check(
            openai.BadRequestError,
            400,
            lambda: client().chat.completions.create(
                model=MODEL, messages=MESSAGES, max_tokens=-1
            ),
        )
        self.assertEqual(error.param, "max_tokens")

    def test_an_error_of_the_engine_arrives_as_the_engine_wrote_it(self):
        bodies = []
        for url in (URL, ENGINES[0]):
            with self.assertRaises(openai.BadRequestError) as caught:
                client(url).completions.create(model=MODEL, prompt="", max_tokens=2)
            bodies.append(caught.exception.body)
        self.assertEqual(bodies[0], bodies[1])

    def test_a_prompt_that_is_too_long_is_a_bad_request(self):
        long = "river " * 3_000
        error = self.check(
            openai.BadRequestError,
            400,
            lambda: client().completions.create(model=MODEL, prompt=long, max_tokens=2),
        )
        self.assertEqual(error.param, "input_tokens")

    def test_a_deadline_of_the_client_is_a_timeout(self):
        with self.assertRaises(openai.APITimeoutError):
            client().with_options(timeout=0.001).chat.completions.create(
                model=MODEL, messages=MESSAGES, max_tokens=512
            )


class Cancellation(unittest.TestCase):
    """A client that leaves."""

    def setUp(self):
        self.assertTrue(wait_until(lambda: running_requests() == 0, 10), "engines are not idle")

    def test_a_stream_that_is_closed_ends_at_the_engine(self):
        stream = client().chat.completions.create(
            model=MODEL,
            messages=MESSAGES,
            max_tokens=1500,
            stream=True,
            **EXACT,
        )
        next(iter(stream))
        self.assertTrue(wait_until(lambda: running_requests() == 1, 2), "it does not run")
        stream.close()
        self.assertTrue(wait_until(lambda: running_requests() == 0, 1), "it still runs")

    def test_a_request_without_a_stream_that_is_given_up_ends_at_the_engine(self):
        with self.assertRaises(openai.APITimeoutError):
            client().with_options(timeout=0.5).chat.completions.create(
                model=MODEL,
                messages=MESSAGES,
                max_tokens=1500,
                **EXACT,
            )
        self.assertTrue(wait_until(lambda: running_requests() == 0, 1), "it still runs")


if __name__ == "__main__":
    unittest.main(verbosity=2)
