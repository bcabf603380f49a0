"""``python -m work continuous [drain]``: run a worker by its API.

With ``drain`` it ends when nothing is left. Its command line fails with the newest release of the
library that parses it.
"""

import asyncio
import sys

from pgqueuer.domain.types import QueueExecutionMode
from tasks import main

BATCH = 100


async def work(mode: str) -> None:
    worker = await main()
    await worker.run(batch_size=BATCH, mode=QueueExecutionMode[mode])


if __name__ == "__main__":
    asyncio.run(work(sys.argv[-1]))
