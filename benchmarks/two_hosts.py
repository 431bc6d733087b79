"""Train with two workers on two hosts that share neither network nor memory; kill one in the middle of a push. As root.

python benchmarks/two_hosts.py                       # SmolLM2-135M over 1 Gbit/s
python benchmarks/two_hosts.py --model tiny --kill 0 # a random model of two layers, nothing is killed
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import namespaces

from rlvr.learner.model import prepare
from rlvr.testing import tiny_model

RECIPE = """
name = "two-hosts"
steps = {steps}
[model]
path = "{model}"
[environment]
name = "arithmetic"
operations = ["add20", "mul12"]
examples = 1
eval_tasks = 16
[[reward]]
name = "math"
[rollout]
workers = 2
prompts_per_step = 8
group_size = 4
max_new_tokens = 16
max_model_len = 256
kv_cache_gib = 1
[algorithm]
advantage_scale = "none"
learning_rate = 3e-5
[hardware]
ray_address = "{address}"
tokens_per_microbatch = 1024
gradient_checkpointing = true
[eval]
tasks = 16
[checkpoint]
every = 0
[guard]
dead_steps = 1000  # a random model learns nothing
"""


class Killer(threading.Thread):
    """Kills the worker of the other host while a version comes to it."""

    def __init__(self, cluster: namespaces.Cluster, version: int) -> None:
        super().__init__(daemon=True)
        self._cluster, self._version = cluster, version
        self.killed = ""

    def run(self) -> None:
        """Wait for the version's first bytes, then kill."""
        shm = self._cluster.files(namespaces.OTHER) / "dev/shm"
        pattern = f"rlvr-copies-*/version-{self._version}-*"
        while not (found := list(shm.glob(pattern))):
            time.sleep(0.005)
        for process in self._cluster.processes(self._cluster.space(namespaces.OTHER)):
            with suppress(OSError):
                name = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")[0].decode()
                if "RolloutActor" in name:
                    os.kill(process, signal.SIGKILL)
                    self.killed = f"{name} (process {process}) was killed as {found[0].name} came"


def main() -> int:
    """Set the hosts up, run, and report. Gives 1 where something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help='or "tiny"')
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument(
        "--kill", type=int, default=1, help="version in whose push the other host's worker dies; 0: none"
    )
    parser.add_argument("--bits", default="1gbit", help="limit of the link between the hosts")
    parser.add_argument("--seconds", type=float, default=900, help="deadline of the run")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rlvr-two-hosts-") as folder, namespaces.two_hosts(bits=a.bits):
        home = Path(__file__).resolve().parent.parent
        # the model lies where both hosts see it, as it would lie on each; weights travel through no shared folder
        model = tiny_model(home / "runs" / "tiny", tied=True) if a.model == "tiny" else prepare(a.model)
        with namespaces.Cluster() as cluster:
            cluster.start(namespaces.OTHER)
            return report(cluster, a, model=model, folder=Path(folder))


def report(cluster: namespaces.Cluster, a: argparse.Namespace, *, model: Path, folder: Path) -> int:
    """Run a recipe on both hosts and tell what came of it."""
    place = cluster.temporary[namespaces.LEARNER]  # the learner's /tmp, under the name that it has there
    address = f"{namespaces.LEARNER}:{namespaces.PORT}"
    (place / "recipe.toml").write_text(RECIPE.format(model=model, steps=a.steps, address=address))
    killer = Killer(cluster, a.kill)
    if a.kill:
        killer.start()
    start = time.monotonic()
    rlvr = [str(Path(sys.executable).with_name("rlvr")), "train", "/tmp/recipe.toml"]
    inside = ["sh", "-c", 'cd /tmp && exec "$@"', "sh", *rlvr]
    done = subprocess.run(
        cluster.beside(namespaces.LEARNER, inside), capture_output=True, text=True, timeout=a.seconds, check=False,
        env=os.environ | namespaces.ENVIRONMENT,
    )  # fmt: skip
    warned = [line for line in done.stdout.splitlines() if line.startswith("!")]
    print(*warned, done.stdout[-3000:], done.stderr[-3000:], sep="\n")
    print(f"exit code {done.returncode} after {time.monotonic() - start:.0f} s; {killer.killed or 'nobody was killed'}")
    for line in [text for path in place.glob("runs/*/metrics.jsonl") for text in path.read_text().splitlines()]:
        record = json.loads(line)
        print(
            {k: v for k, v in record.items() if "push" in k or "fetch" in k or "wire" in k or k in ("step", "version")}
        )
    left = [str(path) for host in cluster.temporary for path in (cluster.files(host) / "dev/shm").glob("rlvr-*")]
    print("left in shared memory:", left or "nothing")
    return int(done.returncode != 0 or bool(left) or (bool(a.kill) and not killer.killed))


if __name__ == "__main__":
    sys.exit(main())
