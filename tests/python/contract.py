"""Holds the running API against its own contract with Schemathesis: every operation, every check, every phase.

    python contract.py --base-url http://127.0.0.1:8080 --key pk_… --operator-key … --requests 5000 [--seed 7]

Operators' routes are asked with the operators' key, all others with the tenant's. Rounds follow until enough requests were made,
each with a seed of its own; the last line tells how many there were. Ends with 1 when one failed.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
# The routes of operators are one tag of the contract.
KEYS = [("tenant", "--exclude-tag"), ("operator", "--include-tag")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--operator-key", required=True)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--examples", type=int, default=30, help="for each operation and phase, in one round")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    given = parser.parse_args()
    keys = {"tenant": given.key, "operator": given.operator_key}
    made, passed, seed = 0, True, given.seed
    while made < given.requests and passed:
        for role, tag in KEYS:
            report = run(given, role, tag, keys[role], seed)
            made += report["requests"]
            passed &= report["passed"]
        seed += 1
    print(f"contract: seed {given.seed}: {made} requests, {'0 failures' if passed else 'FAILED'}")
    return 0 if passed else 1


def run(given, role, tag, key, seed):
    """One run of all phases with one key."""
    print(f"--- as a {role}, seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        counter = Path(folder) / "requests"
        words = [
            str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(HERE / "contract.toml"), "run",
            f"{given.base_url}/openapi.json", tag, "operators", "--checks", "all", "--seed", str(seed),
            "--max-examples", str(given.examples), "--header", f"Authorization: Bearer {key}",
            "--generation-database", "none",
        ]
        environment = dict(
            os.environ, SCHEMATHESIS_HOOKS="contract_hooks", PYTHONPATH=str(HERE),
            CONTRACT_URL=given.base_url, CONTRACT_KEY=given.key, CONTRACT_COUNTER=str(counter),
        )
        code = subprocess.run(words, env=environment, cwd=folder, check=False).returncode
        requests = int(counter.read_text()) if counter.exists() else 0
    return {"requests": requests, "passed": code == 0}


if __name__ == "__main__":
    sys.exit(main())
