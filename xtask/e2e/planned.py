"""A client of an engine that the planner's command started, through a gateway with its settings."""

import unittest

import openai

from _fleet import ENGINES, MODEL, URL, ask

MESSAGES = [{"role": "user", "content": "Name three rivers."}]


class Planned(unittest.TestCase):
    def setUp(self):
        self.client = openai.OpenAI(
            base_url=f"{URL}/v1", api_key="none", max_retries=0, timeout=60
        )

    def test_the_engine_is_as_it_was_planned(self):
        (model,) = ask(f"{ENGINES[0]}/v1/models")["data"]
        self.assertEqual(model["id"], MODEL)
        self.assertEqual([model.id for model in self.client.models.list()], [MODEL])

    def test_an_answer_comes_whole(self):
        answer = self.client.chat.completions.create(
            model=MODEL, messages=MESSAGES, max_tokens=12, extra_body={"ignore_eos": True}
        )
        self.assertEqual(answer.usage.completion_tokens, 12)

    def test_an_answer_comes_token_by_token(self):
        stream = self.client.chat.completions.create(
            model=MODEL, messages=MESSAGES, max_tokens=12, stream=True
        )
        chunks = [chunk for chunk in stream if chunk.choices]
        self.assertIsNotNone(chunks[-1].choices[0].finish_reason)


if __name__ == "__main__":
    unittest.main()
