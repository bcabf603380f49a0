"""The example in motion: ``make demo`` runs it once, ``make demo-serve`` keeps it running."""

import argparse
import fcntl
import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

HERE = Path(__file__).resolve().parent
MANAGE = [sys.executable, str(HERE / "manage.py")]
# A worker without Django's reloader, and without the random pause that keeps many workers apart.
WORKER = [*MANAGE, "db_worker", "--queue-name", "*", "--no-startup-delay", "--no-reload"]

# Seconds between two orders, and those that a child process gets to stop.
PAUSE, PATIENCE = 1.5, 15.0
# While it serves: the share of calls that the courier refuses, see shop/services.py.
TROUBLE = "0.35"

CUSTOMERS = ("Ada", "Blaise", "Carl", "Emmy", "Grace")
CITIES = ("Avalon", "Camelot", "Tintagel")
# Items and the price of one piece.
ITEMS = {"mug": "9.50", "teapot": "34.00", "espresso machine": "899.00"}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true", help="go on, with the admin, until Ctrl-C")
    options = parser.parse_args()
    os.environ["DJANGO_SETTINGS_MODULE"] = "project.settings"
    with only_run():
        set_up()
        if not options.serve:
            return once()
        from past import make_past

        make_past()
        return serve()


# Set-up -----------------------------------------------------------------------------------------


@contextmanager
def only_run():
    """Refuse to take the database away from another run."""
    (HERE / "var").mkdir(exist_ok=True)
    with open(HERE / "var" / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            sys.exit("The example is running already, and there is only one database for it.")
        yield


def set_up():
    """Begin with an empty database, an admin user and three orders from yesterday."""
    for old in HERE.glob("db.sqlite3*"):
        old.unlink()
    for folder in ("outbox", "thumbnails"):
        shutil.rmtree(HERE / "var" / folder, ignore_errors=True)

    import django

    django.setup()
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.utils import timezone
    from shop.models import Order

    call_command("migrate", verbosity=0)
    User.objects.create_superuser("admin", "admin@example.com", "admin")
    for customer, (item, price) in zip(CUSTOMERS, ITEMS.items(), strict=False):
        Order.objects.create(
            customer=customer, email=f"{customer.lower()}@example.com", item=item, price=price
        )
    Order.objects.update(placed_at=timezone.now() - timedelta(days=1), packed_at=timezone.now())


# Once -------------------------------------------------------------------------------------------


def once():
    """Enqueue six tasks, let a worker run them, show the results; return the exit code."""
    from shop.models import Order
    from shop.orders import place_order
    from shop.reports import sales_report
    from shop.tasks import ask_suppliers, charge_card, make_thumbnail

    _, results = place_order(
        customer="Grace", email="grace@example.com", item="mug", quantity=2, price="9.50"
    )
    results.append(make_thumbnail.enqueue("mug.pgm", width=8))
    results.append(ask_suppliers.enqueue("mug"))
    results.append(sales_report.enqueue())
    # 899 euros: the bank will say no.
    results.append(charge_card.enqueue(Order.objects.get(item="espresso machine").pk))

    print(f"Enqueued {len(results)} tasks. Starting a worker:")
    command = [*WORKER, "--batch"]
    print(f"  manage.py {shlex.join(command[len(MANAGE) :])}")
    worker = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if worker.returncode:
        print(worker.stderr, end="", file=sys.stderr)
        print(f"The worker ended with exit code {worker.returncode}.", file=sys.stderr)
        return 1

    for result in results:
        result.refresh()
    print()
    print_table([describe(result) for result in results])
    print()
    return verdict(results)


def describe(result):
    """Return a line of the table."""
    if result.status == "SUCCESSFUL":
        outcome = result.return_value
    elif result.errors:
        # The last line of a traceback: the exception and what it says.
        outcome = result.errors[-1].traceback.strip().splitlines()[-1]
    else:
        outcome = ""
    return (
        result.task.name,
        str(result.status),
        milliseconds(result.enqueued_at, result.started_at),
        milliseconds(result.last_attempted_at, result.finished_at),
        str(outcome),
    )


def milliseconds(begin, end):
    return f"{(end - begin).total_seconds() * 1000:.0f} ms" if begin and end else "-"


def print_table(lines):
    lines = [("task", "status", "waited", "ran", "return value or error"), *lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for number, (task, status, waited, ran, outcome) in enumerate(lines):
        a, b, c, d, _ = widths
        print(f"{task:{a}}  {status:{b}}  {waited:>{c}}  {ran:>{d}}  {outcome}")
        if number == 0:
            print("  ".join("-" * width for width in (a, b, c, d, len(outcome))))


def verdict(results):
    """Say whether all went as it should; return the exit code."""
    succeeded = [result for result in results if result.status == "SUCCESSFUL"]
    failed = [result for result in results if result.status == "FAILED"]
    declined = [
        result
        for result in failed
        if result.errors[-1].exception_class_path == "shop.tasks.PaymentDeclined"
    ]
    if (len(succeeded), len(failed), len(declined)) != (5, 1, 1):
        print(
            f"Expected 5 to succeed and 1 to be declined; {len(succeeded)} succeeded and "
            f"{len(failed)} failed.",
            file=sys.stderr,
        )
        return 1
    print("Five tasks succeeded; one failed as it should. The mail is in example/var/outbox/.")
    print("To keep it running and look at it in the admin (user admin, password admin):")
    print("  make demo-serve")
    return 0


# Serve ------------------------------------------------------------------------------------------


def serve():
    """Run a web server, two workers and busy customers until a signal or a child's end."""
    address = f"127.0.0.1:{os.environ.get('PORT') or 8000}"
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())

    log_path = HERE / "var" / "serve.log"
    with open(log_path, "w") as log:
        os.environ["SHOP_TROUBLE"] = TROUBLE
        children = {
            "web server": start([*MANAGE, "runserver", "--noreload", address], log),
            "first worker": start([*WORKER, "--threads", "4", "--worker-id", "shop-1"], log),
            "second worker": start([*WORKER, "--threads", "4", "--worker-id", "shop-2"], log),
        }
        try:
            wait_for(address, children["web server"])
            print(f"Overview:  http://{address}/admin/durable_tasks/")
            print(f"Admin:     http://{address}/admin/")
            print("Log in as admin, password admin.")
            print(f"Log:       {log_path.relative_to(HERE.parent)}")
            print("Ctrl-C stops it.\n", flush=True)
            ended = None
            for number in range(1, sys.maxsize):
                asked = stopping.wait(PAUSE)
                for name in [n for n, c in children.items() if c.poll() == 0]:
                    del children[name]
                    print(f"The {name} has stopped, as it was asked to. The others go on.")
                ended = next((n for n, c in children.items() if c.poll() is not None), None)
                if asked or ended:
                    break
                order_something(number)
        finally:
            codes = {name: stop(child) for name, child in children.items()}
    if ended:
        print(f"The {ended} ended with exit code {codes[ended]}:", file=sys.stderr)
        print("".join(log_path.read_text().splitlines(True)[-5:]), end="", file=sys.stderr)
        return 1
    print("Stopped.")
    return 0


def start(command, log):
    # A process group of its own: Ctrl-C reaches this process only, which then stops its children,
    # once. A second signal would make the worker drop what it runs.
    return subprocess.Popen(command, stdout=log, stderr=log, process_group=0)


def wait_for(address, child):
    """Wait until the child answers, so that the first click finds something."""
    host, port = address.split(":")
    until = time.monotonic() + PATIENCE
    while child.poll() is None and time.monotonic() < until:
        with suppress(OSError):
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        time.sleep(0.05)


def stop(child):
    """Ask the child to stop, insist if need be, and return its exit code."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()
    return child.wait()


def order_something(number):
    """Place an order and enqueue what a shop does; some of it fails, some of it is for later."""
    from django.utils import timezone
    from shop import tasks
    from shop.orders import place_order

    customer, item = random.choice(CUSTOMERS), random.choice(list(ITEMS))
    order, _ = place_order(
        customer=customer,
        email=f"{customer.lower()}@example.com",
        item=item,
        quantity=random.randint(1, 3),
        price=ITEMS[item],
    )
    soon = timezone.now() + timedelta(seconds=10)
    tasks.charge_card.using(run_after=soon).enqueue(order.pk)
    tasks.book_courier.enqueue(order.pk, random.choice(CITIES))
    if number % 2:
        tasks.write_invoice.enqueue(order.pk)
    if number % 3 == 1:
        tasks.ask_suppliers.enqueue(item)
    if number % 5 == 0:
        tasks.save_card.enqueue(customer, card_number="4111 1111 1111 1111")
    if number % 20 == 0:  # new photos came in
        for width in range(1, 41):
            tasks.make_thumbnail.enqueue("mug.pgm", width=width % 8 + 1)
    if number % 10 == 1:
        tell(f"{customer} ordered {order.quantity} x {item}")


def tell(what):
    from durable_tasks.models import Job

    jobs = Job.objects
    print(
        f"{time.strftime('%H:%M:%S')}  {what}. Jobs: "
        f"{jobs.scheduled().count()} scheduled, {jobs.ready().count()} ready, "
        f"{jobs.running().count()} running, {jobs.successful().count()} successful, "
        f"{jobs.failed().count()} failed.",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
