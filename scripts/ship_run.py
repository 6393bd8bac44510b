"""Put what notebooks read of a finished smoke run into the package, so that each can be opened and run by itself: python scripts/ship_run.py"""
import shutil, sys
from crane.core import DATA, CraneError, project_root, write_json
from crane.reproduce import finished, plan, stage_keys

RUN = 'smoke'
READ = {'02_model': ['results.json'], '03_editors': ['*.safetensors'], '04_failure_modes': ['examples.jsonl', 'curve.jsonl', '*.png'], '05_benchmark': ['*.parquet', '*.jsonl'],
        '06_retrieval': ['thresholds.json'], '07_sft': ['summary.json', 'log.jsonl', '**/model/*'], '08_grpo': ['summary.json', 'log.jsonl', '**/model/*'],
        '09_evaluation': ['results.json', 'scored.jsonl', 'curves.json', 'confusions.jsonl']} # stage -> what later notebooks read of it


def records(root):
    "The records of the run's notebooks; a run that is not whole, or not of a commit, is a `CraneError`."
    keys = stage_keys(plan(RUN, root), root)
    done = {s: finished(root/'runs'/RUN, s, k) for s, k in keys.items()}
    if lacks := [s for s, r in done.items() if r is None]: raise CraneError(f"runs/{RUN} is not finished for this code ({lacks[0]} has to run): run 'crane reproduce --profile {RUN}' first.")
    if dirty := [s for s, r in done.items() if r['made_by']['dirty'] or not r['made_by']['commit']]: raise CraneError(f"runs/{RUN} was made by uncommitted code ({dirty[0]}): commit, and run 'crane reproduce --profile {RUN} --fresh'.")
    return done


def fill(to, run):
    "Copy what is read."
    for stage, patterns in READ.items():
        for pattern in patterns:
            found = [p for p in sorted((run/stage).glob(pattern)) if p.is_file()]
            if not found: raise CraneError(f"runs/{RUN}/{stage} holds no {pattern}, which later notebooks read: mend READ in scripts/ship_run.py.")
            for p in found:
                copy = to/stage/p.relative_to(run/stage); copy.parent.mkdir(parents=True, exist_ok=True); shutil.copyfile(p, copy)


def about(done):
    "Where the run comes from, and what it took."
    stages = {s: dict(seconds=r['seconds'], peak_bytes=r['peak_bytes']) for s, r in done.items()}; last = list(done.values())[-1]['made_by']
    return dict(made=f'crane reproduce --profile {RUN}, then python scripts/ship_run.py', run=RUN, commit=last['commit'], hardware=last['hardware'], stages=stages,
                seconds=round(sum(r['seconds'] for r in done.values()), 1), peak_bytes=max(r['peak_bytes'] for r in done.values()))


def ship(root):
    "Replace the shipped run in one step."
    done, to, new = records(root), DATA/RUN, DATA/f'.{RUN}.new'
    shutil.rmtree(new, ignore_errors=True)
    try:
        fill(new, root/'runs'/RUN)
        write_json(new/'about.json', about(done))
        shutil.rmtree(to, ignore_errors=True); new.rename(to)
    finally: shutil.rmtree(new, ignore_errors=True)
    return to


if __name__ == '__main__':
    try: to = ship(project_root())
    except CraneError as e: sys.exit(f'ship_run: {e}')
    print(f"{to}: {sum(p.stat().st_size for p in to.rglob('*') if p.is_file()):,} bytes")
