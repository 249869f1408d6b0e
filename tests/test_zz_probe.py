import asyncio, sys, faulthandler, pytest, random
from tests.serving import *
@pytest.mark.timeout(200)
async def test_p(redis_url):
    for n in range(150):
        async with working(redis_url) as w:
            await asyncio.sleep(random.random()*0.25)
            w.running.cancel()
            done, pending = await asyncio.wait([w.running], timeout=4)
            if pending:
                print("HANG at", n)
                for t in asyncio.all_tasks():
                    t.print_stack()
                for t in asyncio.all_tasks():
                    if t is not asyncio.current_task(): t.cancel()
                return
