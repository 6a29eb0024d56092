"""langchain-openai against the gateway: chat, streams, tools, structured answers, errors."""

import asyncio
import unittest

import openai
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from typing_extensions import Literal, TypedDict

from _fleet import ENGINE, MODEL, URL

MESSAGES = [SystemMessage("Be brief."), HumanMessage("Name three rivers.")]


class Weather(TypedDict):
    """The weather of a town."""

    town: Literal["Paris", "Rome"]


@tool
def weather(town: Literal["Paris", "Rome"]) -> str:
    """Tells the weather of a town."""
    return f"rain in {town}"


def chat(max_tokens=8, **options):
    """A chat model that never tries twice and never ends by itself."""
    options.setdefault("extra_body", {"ignore_eos": True})
    return ChatOpenAI(
        base_url=f"{URL}/v1",
        api_key="none",
        model=MODEL,
        temperature=0,
        max_tokens=max_tokens,
        max_retries=0,
        timeout=60,
        **options,
    )


class Chat(unittest.TestCase):
    def test_an_answer_has_content_usage_and_a_reason_to_stop(self):
        answer = chat().invoke(MESSAGES)
        self.assertTrue(answer.content)
        self.assertEqual(answer.usage_metadata["output_tokens"], 8)
        self.assertEqual(answer.response_metadata["finish_reason"], "length")
        self.assertEqual(answer.response_metadata["model_name"], MODEL)

    def test_a_stream_adds_up_to_the_answer(self):
        pieces = list(chat().stream(MESSAGES))
        self.assertGreater(len(pieces), 2)
        self.assertEqual(
            "".join(piece.content for piece in pieces), chat().invoke(MESSAGES).content
        )

    def test_a_stream_has_usage_when_it_is_asked_for_and_not_otherwise(self):
        def usage(**options):
            pieces = chat(**options).stream(MESSAGES)
            return [piece.usage_metadata for piece in pieces if piece.usage_metadata]

        (asked,) = usage(stream_usage=True)
        self.assertEqual(asked["output_tokens"], 8)
        self.assertEqual(usage(stream_usage=False), [])

    def test_a_batch_answers_every_prompt_in_its_place(self):
        prompts = [[HumanMessage(f"Count to {number}.")] for number in range(6)]
        batched = chat().batch(prompts, {"max_concurrency": 6})
        alone = [chat().invoke(prompt) for prompt in prompts]
        # Real kernels may round otherwise in a batch; the fake's words depend on the prompt alone.
        if ENGINE == "fake":
            self.assertEqual([a.content for a in batched], [a.content for a in alone])
        self.assertEqual([a.usage_metadata["input_tokens"] for a in batched],
                         [a.usage_metadata["input_tokens"] for a in alone])

    def test_many_streams_run_side_by_side(self):
        async def one():
            return [piece async for piece in chat(stream_usage=True).astream(MESSAGES)]

        async def all_of_them():
            return await asyncio.gather(*(one() for _ in range(8)))

        for pieces in asyncio.run(all_of_them()):
            self.assertEqual(sum(p.usage_metadata is not None for p in pieces), 1)

    def test_logprobs_are_preserved(self):
        answer = chat(4, logprobs=True, top_logprobs=2).invoke(MESSAGES)
        tokens = answer.response_metadata["logprobs"]["content"]
        self.assertEqual([len(token["top_logprobs"]) for token in tokens], [2] * 4)


class Tools(unittest.TestCase):
    def bound(self, **options):
        model = chat(1500, extra_body={"parallel_tool_calls": False})
        return model.bind_tools([weather], strict=True, **options)

    def test_a_tool_is_called_and_its_result_is_taken(self):
        asked = [HumanMessage("How is it in Rome?")]
        answer = self.bound(tool_choice="weather").invoke(asked)
        self.assertIsInstance(answer, AIMessage)
        (call,) = answer.tool_calls
        self.assertEqual(call["name"], "weather")
        result = weather.invoke(call)
        self.assertIsInstance(result, ToolMessage)
        self.assertTrue(chat().invoke([*asked, answer, result]).content)

    def test_a_tool_that_must_be_called_is_called(self):
        (call,) = self.bound(tool_choice="required").invoke(MESSAGES).tool_calls
        self.assertIn(call["args"]["town"], ["Paris", "Rome"])

    def test_a_streamed_call_adds_up_to_the_answered_one(self):
        whole = self.bound(tool_choice="weather").invoke(MESSAGES)
        streamed = None
        for piece in self.bound(tool_choice="weather").stream(MESSAGES):
            streamed = piece if streamed is None else streamed + piece
        self.assertEqual(
            [(call["name"], call["args"]) for call in streamed.tool_calls],
            [(call["name"], call["args"]) for call in whole.tool_calls],
        )

    def test_a_structured_answer_has_its_structure(self):
        model = chat(1500, extra_body={"parallel_tool_calls": False})
        model = model.with_structured_output(Weather, method="function_calling", strict=True)
        self.assertIn(model.invoke(MESSAGES)["town"], ["Paris", "Rome"])


class Others(unittest.TestCase):
    def test_a_completion_streams_as_it_answers(self):
        model = OpenAI(
            base_url=f"{URL}/v1",
            api_key="none",
            model=MODEL,
            temperature=0,
            max_tokens=8,
            max_retries=0,
            extra_body={"ignore_eos": True},
        )
        self.assertEqual("".join(model.stream("Three rivers:")), model.invoke("Three rivers:"))

    def test_an_unknown_model_is_the_exception_of_the_sdk(self):
        with self.assertRaises(openai.NotFoundError):
            chat().bind(model="nope").invoke(MESSAGES)
        with self.assertRaises(openai.NotFoundError):
            list(chat().bind(model="nope").stream(MESSAGES))

    def test_what_the_engine_refuses_is_a_bad_request(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            chat(100_000).invoke(MESSAGES)
        # langchain sends the limit by its newer name.
        self.assertEqual(caught.exception.param, "max_completion_tokens")

    def test_embeddings_come_or_are_refused(self):
        model = OpenAIEmbeddings(
            base_url=f"{URL}/v1",
            api_key="none",
            model=MODEL,
            max_retries=0,
            # It would fetch a tokenizer.
            check_embedding_ctx_length=False,
        )
        if ENGINE == "fake":
            vectors = model.embed_documents(["a", "b"])
            self.assertEqual([len(vector) for vector in vectors], [64, 64])
            self.assertNotEqual(*vectors)
        else:
            # The real one was started to generate.
            with self.assertRaises(openai.APIStatusError):
                model.embed_documents(["a"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
