"""What it costs to begin: CPU time of `crane --help` and of `import crane`, against a Python that does nothing.

python benchmarks/command_line.py
"""

import resource
import subprocess
import sys

TIMES = 9
CODE = {
    "python": "pass",
    "import crane": "import crane",
    "crane --help": "import sys; sys.argv = ['crane', '--help']; from crane.command_line import main; main()",
    "crane edits --help": "import sys; sys.argv[1:] = ['edits', '--help']; from crane.command_line import main; main()",
}


def cpu(code):
    "Seconds of CPU of a process, its start included."
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    least = {name: min(cpu(code) for _ in range(TIMES)) for name, code in CODE.items()}
    for name, seconds in least.items():
        print(f"{name:<20}{seconds:6.2f} s of CPU  {seconds / least['python']:5.1f} times a bare Python")
