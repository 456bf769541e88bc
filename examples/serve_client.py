"""Three sentences asked at once of a running `t2l serve`, streamed: python examples/serve_client.py."""

from __future__ import annotations

import argparse
import asyncio

from openai import AsyncOpenAI

SENTENCES = [
    "Answer in capitals.",
    "Reply with the last word of the text.",
    "Say whether the text is about food or about sport.",
]


async def ask(client: AsyncOpenAI, sentence: str, text: str, max_tokens: int) -> None:
    """Print an answer with the moments at which its pieces came, in seconds."""
    clock = asyncio.get_running_loop().time
    started = clock()
    stream = await client.chat.completions.create(
        model=f"t2l:{sentence}",
        messages=[{"role": "user", "content": text}],
        max_tokens=max_tokens,
        stream=True,
    )
    pieces = []
    async for chunk in stream:
        if content := chunk.choices[0].delta.content:
            pieces.append((clock() - started, content))
    answer = "".join(content for _, content in pieces)
    times = f"{pieces[0][0]:.2f} to {pieces[-1][0]:.2f} s" if pieces else "no text"
    print(f"{sentence}\n  {answer!r}\n  pieces: {len(pieces)}, {times}")


async def main() -> None:
    """Ask all sentences at once; the server generates their adapters in one pass."""
    arguments = argparse.ArgumentParser(description="Ask a server for answers under sentences.")
    arguments.add_argument("sentences", nargs="*", default=SENTENCES)
    arguments.add_argument("--input", default="The soup is cold today.")
    arguments.add_argument("--url", default="http://127.0.0.1:8000/v1")
    arguments.add_argument("--api-key", default="none")
    arguments.add_argument("--max-tokens", type=int, default=24)
    options = arguments.parse_args()
    async with AsyncOpenAI(base_url=options.url, api_key=options.api_key) as client:
        await asyncio.gather(
            *(ask(client, one, options.input, options.max_tokens) for one in options.sentences)
        )


if __name__ == "__main__":
    asyncio.run(main())
