"""What a release is made of: a bill of materials (CycloneDX) beside the wheel, and hashes for its lock.

    python scripts/sbom.py FOLDER      FOLDER/crane-companion-VERSION.cdx.json: packages, shipped weights and data
    python scripts/sbom.py --hashes    requirements-hashed.txt, from what pip would install here

`pip install --require-hashes -r requirements-hashed.txt` installs the lock on the platform that the hashes are of
(Linux, x86-64, CPython 3.11); on others `requirements.txt` pins the same versions.
"""

import json
import re
import subprocess
import sys
import tempfile
import uuid
from importlib import metadata
from pathlib import Path

from crane import __version__
from crane.core import CraneError, read_json, write_atomic, write_json

root = Path(__file__).resolve().parent.parent
data, hashed = root / "crane" / "data", root / "requirements-hashed.txt"
HEAD = """# requirements.txt with the hash of each file, for Linux on x86-64 and CPython 3.11; made by
# `python scripts/sbom.py --hashes`. The hash of torch is that of its CPU build, which the index of PyTorch has.
# pip install --require-hashes -r requirements-hashed.txt
"""
OURS = {  # of shipped files, which are ours unless SOURCES.md names a source; folder or file -> licence
    "SOURCES.md": "Apache-2.0",
    "chains.jsonl": "CC0-1.0",
    "words.txt": "CC0-1.0",
    "wordings.txt": "CC0-1.0",
    "world.parquet": "see SOURCES.md",
    "second_domain.parquet": "see SOURCES.md",
    "country_names.json": "see SOURCES.md",
}


def norm(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pins():
    "Name -> version, of the lock."
    lines = (root / "requirements.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def write_hashes():
    "The lock with the hash of what pip would install."
    with tempfile.TemporaryDirectory() as d:
        report = Path(d) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps", "--ignore-installed"]
        command += ["--report", str(report), "-r", str(root / "requirements.txt")]
        if subprocess.run(command).returncode:
            raise CraneError("pip cannot tell what it would install: see above.")
        return keep_hashes(read_json(report))


def keep_hashes(report):
    "Write the hashes of a report of pip's."
    lines = []
    for item in report["install"]:
        about = item["metadata"]
        sha = item["download_info"]["archive_info"]["hashes"]["sha256"]
        version = about["version"].partition("+")[0]  # the CPU build of torch is chosen by the index, not by the pin
        lines.append(f"{about['name']}=={version} --hash=sha256:{sha}\n")
    return write_atomic(hashed, HEAD + "".join(sorted(lines, key=str.lower)))


def hashes():
    "Normal name -> SHA-256 of its file."
    text = hashed.read_text() if hashed.exists() else ""
    return {norm(name): sha for name, sha in re.findall(r"^(\S+?)==\S+ --hash=sha256:([0-9a-f]{64})$", text, re.M)}


def licences(name):
    "What a package says of its licence."
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return []
    said = about.get("License-Expression") or next(
        (c.split(" :: ")[-1] for c in about.get_all("Classifier") or [] if c.startswith("License")),
        about.get("License"),
    )
    return [dict(license=dict(name=said.splitlines()[0][:100]))] if said else []


def packages():
    "A component for each package of the lock."
    known = hashes()
    for name, version in pins().items():
        component = dict(type="library", name=name, version=version, purl=f"pkg:pypi/{norm(name)}@{version}")
        if norm(name) in known:
            component["hashes"] = [dict(alg="SHA-256", content=known[norm(name)])]
        yield component | dict(licenses=licences(name))


def shipped():
    "A component for each shipped file of weights or data."
    for name, sha in read_json(data / "SHA256SUMS.json").items():
        kind = "machine-learning-model" if name.endswith(".safetensors") else "data"
        licence = OURS.get(name.split("/")[0], "Apache-2.0")
        yield dict(
            type=kind,
            name=f"crane/data/{name}",
            hashes=[dict(alg="SHA-256", content=sha)],
            licenses=[dict(license=dict(name=licence))],
        )


def bill():
    "The bill of materials; the same lock and the same data give the same bytes."
    ours = dict(
        type="library", name="crane-companion", version=__version__, purl=f"pkg:pypi/crane-companion@{__version__}"
    )
    parts = [*packages(), *shipped()]
    number = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(parts, sort_keys=True))
    about = dict(component=ours | dict(licenses=[dict(license=dict(id="Apache-2.0"))]))
    return dict(
        bomFormat="CycloneDX",
        specVersion="1.6",
        serialNumber=f"urn:uuid:{number}",
        version=1,
        metadata=about,
        components=parts,
    )


if __name__ == "__main__":
    try:
        if sys.argv[1:] == ["--hashes"]:
            print(write_hashes())
        elif len(sys.argv) == 2:
            print(write_json(Path(sys.argv[1]) / f"crane-companion-{__version__}.cdx.json", bill()))
        else:
            sys.exit(__doc__)
    except CraneError as e:
        sys.exit(f"sbom: {e}")
