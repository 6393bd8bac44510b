"""Put the promoted run's routing adapter and thresholds into the package, with a model card made from its results."""

import shutil
import sys
from pathlib import Path

from crane.core import DATA, project_root, read_json, record_shipped, write_atomic, write_json
from crane.library import MODALITIES

root = project_root()
run = Path(sys.argv[1]) if len(sys.argv) > 1 else root / "runs" / "full"
sft = read_json(run / "07a_sft" / "summary.json")
grpo = read_json(run / "08_grpo" / "summary.json")
tau = read_json(run / "06c_retrieval" / "thresholds.json")
goals = (root / "figures" / "goals.md").read_text()
commit = read_json(root / "figures" / "provenance.json")["commit"]
router = DATA / "router"
shutil.rmtree(router, ignore_errors=True)
router.mkdir()
for p in (run / "08_grpo" / "model").glob("adapter_*"):
    shutil.copy(p, router)
    (router / p.name).chmod(0o644)
size = sum(p.stat().st_size for p in router.iterdir())
write_atomic(
    router / "README.md",
    f"""---
base_model: pocket
library_name: peft
license: apache-2.0
---
# The routing adapter of the CRANE companion

A LoRA adapter ({size / 1e6:.2f} MB) on the attention of the pocket reasoning MLLM that ships \
beside it. It reads a retrieved edit in the prompt, says whether it applies, \
and goes on from the edited fact or from the true one. \
It is switched on only where a note stands in the prompt; without one the base model answers.

**Use.** `from crane.routing import Crane`; `crane = Crane()`; \
`crane.edit_flag(picture, country)`; `crane.ask(question, picture)`.

**Training.** SFT on {sft["n_examples"]:,} routing examples ({sft["seconds"]["SFT"]:.0f} s), \
then {grpo["steps"]} steps of GRPO with the Cognitive Routing Reward \
({grpo["seconds"]["SFT + GRPO"]:.0f} s), on two CPU cores, seed {grpo["seed"]}, commit {commit[:10]}. \
Both saw train entities only; validation entities chose the settings, test entities were met once. \
The recipe is `nbs/07a_sft.ipynb` and `nbs/08_grpo.ipynb`.

**What it reaches**, on test entities, beside the goals that were set before:

{goals}
**Limits.** Flags of countries, in English, in the wordings of the pocket world. \
What it has never seen (T5: flags of subdivisions, emoji) it does not route. \
Nothing it says about a country is a source.
""",
)
old = read_json(DATA / "thresholds.json")
write_json(DATA / "thresholds.json", old | {k: tau[k] for k in (*MODALITIES, "false_positive_rate", "n")})
record_shipped("thresholds.json", *(f"router/{p.name}" for p in sorted(router.iterdir())))
print(f"{router}: {size} bytes")
