"The batch on tiny projects: bad input, resume, interruption, kill, lock, promotion. Nothing half-made is taken for finished."
import json, os, signal, subprocess, sys, time
import nbformat, psutil, pytest

OUT = "from pathlib import Path\nd = Path('../runs')/run/{!r}\nd.mkdir(parents=True)"

def notebook(path, *cells):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    nb.cells[0].metadata.tags = ['parameters']
    nb.metadata.kernelspec = dict(name='python3', display_name='python3', language='python')
    nbformat.write(nb, path)

@pytest.fixture
def project(tmp_path):
    "Three stages that pass a number on; the second waits for a file `go`."
    for d in 'nbs', 'profiles', 'crane/data': (tmp_path/d).mkdir(parents=True)
    (tmp_path/'settings.ini').write_text('[DEFAULT]\n')
    (tmp_path/'profiles/tiny.yaml').write_text('seed: 7\nstages:\n  01_make: {number: 3}\n')
    (tmp_path/'go').touch()
    notebook(tmp_path/'nbs/01_make.ipynb', 'run = "tiny"\nseed = 0\nnumber = 1', OUT.format('01_make'), "(d/'n.txt').write_text(f'{number} {seed}')")
    notebook(tmp_path/'nbs/02_wait.ipynb', 'run = "tiny"', OUT.format('02_wait'),
             "import time\n(d/'half.txt').write_text('half')\nwhile not Path('../go').exists(): time.sleep(.05)", "(d/'whole.txt').write_text('whole')")
    notebook(tmp_path/'nbs/10_report.ipynb', 'run = "tiny"', OUT.format('10_report'), "(d/'figures').mkdir()\n(d/'figures/t.csv').write_text(Path('../runs/tiny/01_make/n.txt').read_text())")
    return tmp_path

def start(project, *args, **env):
    command = [sys.executable, '-c', 'from crane.reproduce import main; main()', 'reproduce', '--profile', 'tiny', *args]
    listen = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) # a test run in the background would hand on that SIGINT is ignored
    return subprocess.Popen(command, cwd=project, env=os.environ | env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listen)

def finish(p, timeout=60):
    out, err = p.communicate(timeout=timeout)
    return p.returncode, out, err

def run(project, *args, **env): return finish(start(project, *args, **env))
def did(out): return [line.split()[1] for line in out.splitlines() if ' done in ' in line]
def kept(out): return [line.split()[1] for line in out.splitlines() if 'kept' in line]
def one_line(err): return err.count('\n') == 1 and 'Traceback' not in err
def edit(path, change):
    nb = nbformat.read(path, as_version=4)
    change(nb)
    nbformat.write(nb, path)

def wait_for(path, p):
    for _ in range(600):
        if path.exists(): return
        assert p.poll() is None, p.communicate()
        time.sleep(.05)
    raise TimeoutError(path)

def refused(project, *words):
    code, out, err = run(project)
    assert code == 1 and one_line(err), (code, err)
    assert not (project/'runs/tiny').exists(), 'it must stop before anything runs'
    for w in words: assert w in err

def test_unknown_profile(project):
    (project/'profiles/tiny.yaml').rename(project/'profiles/tinny.yaml')
    refused(project, "unknown profile 'tiny'", "did you mean 'tinny'")

def test_unknown_parameter(project):
    (project/'profiles/tiny.yaml').write_text('stages: {01_make: {nubmer: 3}}')
    refused(project, "'nubmer'", '01_make', "did you mean 'number'")

def test_unknown_notebook(project):
    (project/'profiles/tiny.yaml').write_text('stages: {01_mak: {number: 3}}')
    refused(project, "'01_mak'", 'profiles/tiny.yaml', "did you mean '01_make'")

def test_parameter_of_the_wrong_type(project):
    (project/'profiles/tiny.yaml').write_text('stages: {01_make: {number: three}}')
    refused(project, "parameter 'number' of 01_make is 'three'", 'int')

def test_run_cannot_be_set(project):
    (project/'profiles/tiny.yaml').write_text('stages: {01_make: {run: other}}')
    refused(project, "'run'", '01_make')

@pytest.mark.parametrize('text', ['seed: [1\nstages: {}', '- a list', 'stages: 3', 'seed: yes', 'stages: {01_make: 3}', 'stage: {}', '\tx'])
def test_broken_profile(project, text):
    (project/'profiles/tiny.yaml').write_text(text)
    refused(project, 'tiny.yaml')

def test_damaged_notebook(project):
    path = project/'nbs/02_wait.ipynb'
    path.write_text(path.read_text()[:200])
    refused(project, '02_wait.ipynb', 'git checkout')

def test_outside_a_checkout(tmp_path):
    code, _, err = run(tmp_path)
    assert code == 1 and one_line(err) and 'inside a checkout' in err

def test_dry_run_runs_nothing(project):
    code, out, _ = run(project, '--dry-run')
    assert code == 0 and 'number=3' in out and not (project/'runs').exists()

def test_parameters_and_seed_arrive(project):
    code, out, err = run(project)
    assert code == 0, err
    assert (project/'runs/tiny/01_make/n.txt').read_text() == '3 7'
    assert 'runs/tiny/10_report/figures' in out and not (project/'figures').exists()
    assert '[1/3] 01_make' in out and '[3/3] 10_report' in out

def test_second_run_skips_everything_and_fresh_does_not(project):
    assert did(run(project)[1]) == ['01_make', '02_wait', '10_report']
    assert kept(run(project)[1]) == ['01_make', '02_wait', '10_report']
    assert did(run(project, '--fresh')[1]) == ['01_make', '02_wait', '10_report']

def test_code_runs_again_and_prose_does_not(project):
    run(project)
    edit(project/'nbs/02_wait.ipynb', lambda nb: nb.cells.append(nbformat.v4.new_markdown_cell('A sentence.')))
    assert did(run(project)[1]) == []
    edit(project/'nbs/02_wait.ipynb', lambda nb: nb.cells.append(nbformat.v4.new_code_cell('1+1')))
    assert did(run(project)[1]) == ['02_wait', '10_report']

def test_what_makes_a_stage_run_again(project):
    run(project)
    for name, text, again in [
            ('runs/tiny/02_wait/whole.txt', 'damaged', ['02_wait', '10_report']),
            ('runs/tiny/executed/02_wait.json', '{"key": ', ['02_wait', '10_report']),
            ('crane/wait.py', 'x = 1', ['02_wait', '10_report']),
            ('crane/data/new.bin', 'x', ['01_make', '02_wait', '10_report']),
            ('profiles/tiny.yaml', 'seed: 8', ['01_make', '02_wait', '10_report'])]:
        (project/name).write_text(text)
        assert did(run(project)[1]) == again, name

def test_retrain_counts_only_for_who_reads_it(project):
    edit(project/'nbs/02_wait.ipynb', lambda nb: nb.cells.append(nbformat.v4.new_code_cell("import os; os.environ.get('RETRAIN')")))
    run(project)
    assert did(run(project, RETRAIN='1')[1]) == ['02_wait', '10_report']

def test_failing_cell_is_one_sentence(project):
    edit(project/'nbs/02_wait.ipynb', lambda nb: nb.cells.insert(2, nbformat.v4.new_code_cell('{}["key"]')))
    code, out, err = run(project)
    assert code == 1 and one_line(err)
    for w in '02_wait', 'cell 4 of 6', "KeyError: 'key'", 'runs/tiny/executed/02_wait.partial.ipynb': assert w in err
    assert (project/'runs/tiny/executed/02_wait.partial.ipynb').exists() and not (project/'runs/tiny/executed/02_wait.ipynb').exists()
    edit(project/'nbs/02_wait.ipynb', lambda nb: nb.cells.pop(2))
    code, out, _ = run(project)
    assert code == 0 and kept(out) == ['01_make'] and did(out) == ['02_wait', '10_report']

def test_dead_kernel_is_named(project):
    edit(project/'nbs/02_wait.ipynb', lambda nb: nb.cells.append(nbformat.v4.new_code_cell('import os; os.kill(os.getpid(), 9)')))
    code, _, err = run(project)
    assert code == 1 and 'Traceback' not in err and '02_wait lost its kernel in cell 6 of 6' in err.splitlines()[-1] and 'memory' in err

@pytest.mark.parametrize('sig,status', [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_stopped_half_way_it_goes_on_from_there(project, sig, status):
    (project/'go').unlink()
    p = start(project)
    wait_for(project/'runs/tiny/02_wait/half.txt', p)
    kernels = psutil.Process(p.pid).children(recursive=True)
    p.send_signal(sig)
    code, out, err = finish(p)
    assert code == status
    if sig != signal.SIGKILL: assert one_line(err) and 'same command' in err
    assert kernels and not psutil.wait_procs(kernels, timeout=10)[1], 'the kernel must not outlive the batch'
    assert not (project/'runs/tiny/executed/02_wait.json').exists()
    (project/'go').touch()
    code, out, err = run(project)
    assert code == 0, err
    assert kept(out) == ['01_make'] and did(out) == ['02_wait', '10_report']
    assert (project/'runs/tiny/02_wait/whole.txt').exists()

def test_two_batches_on_one_run_are_refused(project):
    (project/'go').unlink()
    p = start(project)
    wait_for(project/'runs/tiny/02_wait/half.txt', p)
    code, _, err = run(project, '--fresh')
    assert code == 1 and one_line(err) and str(p.pid) in err
    assert (project/'runs/tiny/02_wait/half.txt').exists()
    (project/'go').touch()
    assert finish(p)[0] == 0

def test_promotion(project):
    profile = project/'profiles/tiny.yaml'
    profile.write_text(profile.read_text() + 'promote: true\n')
    (project/'figures').mkdir()
    (project/'figures/old.csv').touch()
    edit(project/'nbs/01_make.ipynb', lambda nb: nb.cells.append(nbformat.v4.new_code_cell('import os; os.getcwd()')))
    code, out, err = run(project)
    assert code == 0, err
    assert (project/'figures/t.csv').read_text() == '3 7' and not (project/'figures/old.csv').exists()
    assert [p.name for p in sorted((project/'figures/notebooks').iterdir())] == ['01_make.ipynb', '02_wait.ipynb', '10_report.ipynb']
    assert "'./nbs'" in (project/'figures/notebooks/01_make.ipynb').read_text()
    for f in project.glob('figures/**/*.*'): assert str(project) not in f.read_text()
    said = json.loads((project/'figures/provenance.json').read_text())
    assert said['profile'] == 'tiny' and said['seed'] == 7 and said['stages']['01_make']['peak_bytes'] > 1e7
    assert {'cpu', 'cores', 'memory_bytes'} == set(said['hardware']) and 'commit' in said and 'dirty' in said
    stamp = (project/'figures/provenance.json').stat().st_mtime_ns
    run(project)
    assert (project/'figures/provenance.json').stat().st_mtime_ns == stamp, 'nothing ran, nothing to promote'
    (project/'figures/t.csv').write_text('damaged')
    run(project)
    assert (project/'figures/t.csv').read_text() == '3 7'

def test_why_names_what_changed(project):
    from crane.reproduce import differing, ingredients, load_profile, plan
    made_of = lambda: ingredients(plan('tiny', project), load_profile('tiny', project)['seed'], project)
    was = made_of(); assert differing(was, made_of()) == []
    def reword(nb): nb.cells.append(nbformat.v4.new_markdown_cell('Prose.'))
    edit(project/'nbs/02_wait.ipynb', reword); assert differing(was, made_of()) == []
    def recode(nb): nb.cells[-1].source += '\n1'
    edit(project/'nbs/10_report.ipynb', recode); assert differing(was, made_of()) == ['code 10_report: changed']
    (project/'profiles/tiny.yaml').write_text('seed: 8\nstages:\n  01_make: {number: 4}\n'); (project/'crane/data/x.bin').write_bytes(b'x')
    assert differing(was, made_of()) == ['code 10_report: changed', 'parameter 01_make.number: 3 → 4', 'parameter 01_make.seed: 7 → 8', 'data x.bin: new', 'seed seed: 7 → 8']
    other = was | dict(package=was['package'] | dict(torch='0.0')); assert any(l.startswith('package torch: 0.0 → ') for l in differing(other, was))
