"""RQ's scheduler for the queue ``emails`` as a process of its own, for workers that get killed."""

from rq.scheduler import RQScheduler

from tests.rq.app import connection

if __name__ == "__main__":
    scheduler = RQScheduler(["emails"], connection=connection)
    scheduler.acquire_locks()
    print("Listening on the scheduled jobs", flush=True)
    scheduler.work()
