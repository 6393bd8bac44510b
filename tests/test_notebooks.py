"Each notebook as a reader meets it: opened alone in a fresh clone and run from the top, without any other having run."
import os, re, shutil
from pathlib import Path
import nbformat, pytest
from nbclient import NotebookClient
from crane.reproduce import notebooks

root = Path(__file__).resolve().parent.parent
READS = {'04_failure_modes': ['03'], '06_retrieval': ['05'], '07_sft': ['05'], '08_grpo': ['05', '07'], '09_evaluation': ['03', '05', '06', '07', '08'], '10_report': ['02', '04', '07', '08', '09'],
         'add_a_method': ['05']} # notebook -> stages of which it takes what ships
TAKEN = re.compile(r"(\d\d)_\w+ has not been run here: taking what ships with the package \(run 'smoke', commit [0-9a-f]{8}\)\n")

def clone(to):
    "The project without runs; what notebooks do not write is linked. (A linked nbs/ would lead back here.)"
    shutil.copytree(root/'nbs', to/'nbs', ignore=shutil.ignore_patterns('.*'))
    for name in 'crane', 'profiles', 'figures', 'settings.ini', 'pyproject.toml', 'scripts', 'README.md', 'LICENSE': (to/name).symlink_to(root/name)
    return to

def run_alone(project, name):
    "Execute a notebook of a project from the top, in a kernel of its own that is no batch."
    nb = nbformat.read(project/'nbs'/f'{name}.ipynb', as_version=4)
    env = {k: v for k, v in os.environ.items() if k not in ('CRANE_BATCH', 'RETRAIN', 'REBUILD')} | dict(PYTHONPATH=str(project))
    NotebookClient(nb, kernel_name='python3', timeout=900, resources=dict(metadata=dict(path=str(project/'nbs'))), extra_arguments=['--log-level=ERROR']).execute(env=env)
    return nb

def said(nb): return ''.join(o.text for c in nb.cells if c.cell_type == 'code' for o in c.outputs if o.output_type == 'stream')

@pytest.mark.slow
@pytest.mark.parametrize('name', notebooks(root))
def test_a_notebook_runs_by_itself(name, tmp_path):
    project = clone(tmp_path); nb = run_alone(project, name) # an error ends the test
    ran = [c.execution_count for c in nb.cells if c.cell_type == 'code' and c.source.strip()]
    assert ran == [*range(1, len(ran)+1)], 'every cell, in order'
    taken = TAKEN.findall(said(nb))
    assert len(taken) == len(set(taken)), 'said once a stage'
    if name in READS or name[:2].isdigit(): assert sorted(taken) == READS.get(name, []), said(nb)[:500]
    here = {p.name for p in (project/'runs'/'smoke').glob('*')}
    assert here <= {name}, 'it writes into its own stage only'
