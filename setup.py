"Puts the promoted ledger into the package that is built, so that `crane ledger` can print it where there is no checkout."

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PROMOTED = "ledger.json", "provenance.json"


class WithLedger(build_py):
    "The package, with what is promoted to `figures/`."

    def run(self):
        super().run()
        to = Path(self.build_lib) / "crane" / "data" / "promoted"
        for name in PROMOTED:
            if not self.editable_mode and Path("figures", name).exists():
                to.mkdir(parents=True, exist_ok=True)
                shutil.copy(Path("figures", name), to)


setup(cmdclass=dict(build_py=WithLedger))
