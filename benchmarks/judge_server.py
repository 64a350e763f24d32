"""A stand-in for a judge's server: answers what the lexical judge would say, after a while, and misbehaves as told.

    python benchmarks/judge_server.py --port 8001 --latency 0.2 --at-once 256 --faults 0.2

Faults, in equal shares: 429, 500, a stall, an answer cut short, malformed JSON, a connection dropped in mid-answer. The
same question is never failed more than twice in a row, as a server under load would not be.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
from collections import Counter

from perception_r1.reasoning.facts import verdicts

FAULTS = ("429", "500", "stall", "cut", "malformed", "drop")


class JudgeServer:
    """``latency`` seconds an answer, ``at_once`` answers at a time, a share ``faults`` of misbehaviour."""

    def __init__(self, latency: float, at_once: int, faults: float, stall: float, seed: int = 0) -> None:
        self.latency, self.faults, self.stall = latency, faults, stall
        self.room = asyncio.Semaphore(at_once)
        self.rng = random.Random(seed)
        self.failed: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(re.search(rb"content-length: *(\d+)", head, re.I)[1]) if b"POST" in head[:5] else 0
                body = json.loads(await reader.readexactly(length)) if length else {}
                if not await self.answer(body, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, body: dict, writer: asyncio.StreamWriter) -> bool:
        """True while the connection stays open."""
        if not body:  # GET: the counters
            return await send(writer, 200, dict(self.counts))
        fault = self.fault(body["messages"][-1]["content"])
        self.counts[fault or "well"] += 1
        async with self.room:
            await asyncio.sleep(self.stall if fault == "stall" else self.latency)
        if fault in ("429", "500"):
            return await send(writer, int(fault), {"error": {"message": "busy"}})
        text = reply(body["messages"][-1]["content"])
        reason = "stop"
        if fault == "cut":
            text, reason = text[: len(text) // 2], "length"
        elif fault == "malformed":
            text = text.replace("{", "<").replace("}", ">")
        document = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": "judge",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}],
            "usage": {
                "prompt_tokens": len(body["messages"][-1]["content"]) // 4,
                "completion_tokens": len(text) // 4,
                "total_tokens": 0,
            },
        }
        return await send(writer, 200, document, half=fault == "drop")

    def fault(self, question: str) -> str:
        if self.failed[question] >= 2 or self.rng.random() >= self.faults:
            self.failed[question] = 0
            return ""
        self.failed[question] += 1
        return self.rng.choice(FAULTS)


def reply(question: str) -> str:
    """The verdicts that the lexical judge gives, in the form that our prompt asks for."""
    facts = re.findall(r"^\d+\. (.*)$", question.partition("[text ")[0], re.M)
    mark = re.search(r"^\[text [0-9a-f]{12}\]$", question, re.M)
    assert mark is not None
    response = question.split(mark[0])[1]
    found = verdicts(response, facts)
    entries = [{"id": i, "verdict": one, "quote": response.strip()[:60]} for i, one in enumerate(found, start=1)]
    return json.dumps({"verdicts": entries}, ensure_ascii=False)


async def send(writer: asyncio.StreamWriter, status: int, document: dict, half: bool = False) -> bool:
    data = json.dumps(document).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n".encode()
    writer.write(head + (data[: len(data) // 2] if half else data))
    await writer.drain()
    return not half


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--at-once", type=int, default=256)
    parser.add_argument("--faults", type=float, default=0.0)
    parser.add_argument("--stall", type=float, default=30.0)
    arguments = parser.parse_args()
    server = JudgeServer(arguments.latency, arguments.at_once, arguments.faults, arguments.stall)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", arguments.port, limit=2**20)
    print(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1", flush=True)
    await listening.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
