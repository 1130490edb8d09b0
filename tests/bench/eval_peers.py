"""What the benches of the evaluator and of masks share: an environment with the packages they are measured against, and
the data sets, which the generator of the evaluation fixtures makes."""
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PINS = ["numpy==2.4.6", "orjson==3.13.0", "pycocotools==2.0.11", "hotcoco==1.3.0", "lvis==0.5.3"]


def dependencies():
    default = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "divergen"
    return pathlib.Path(os.environ.get("DIVERGEN_DEPS", default))


def peer_python():
    """Interpreter of the environment, made if it is missing or holds other versions."""
    folder = dependencies() / "eval-peers"
    python, marker = folder / "bin/python", folder / ".complete"
    if marker.is_file() and marker.read_text() == "\n".join(PINS):
        return str(python)
    print(f"installing {', '.join(PINS)} into {folder}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PINS[:-1]], check=True)
    # lvis pins nothing, but asks for matplotlib and OpenCV, which its index needs as little as its evaluation does.
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", PINS[-1]],
                   check=True)
    marker.write_text("\n".join(PINS))
    return str(python)


def data_folder():
    """$DIVERGEN_EVAL_DATA: s001, s010, s100 with gt.json, bbox.json, segm.json, as the fixtures' make_lvis_like.py writes
    them for --seed 1 and --scale 0.01, 0.1, 1."""
    given = os.environ.get("DIVERGEN_EVAL_DATA")
    if not given:
        sys.exit("name the folder of the data sets in DIVERGEN_EVAL_DATA: s001, s010 and s100, each made by the fixtures' "
                 "tools/make_lvis_like.py --seed 1 --scale 0.01 (0.1, 1) --out FOLDER/s001 (s010, s100)")
    return pathlib.Path(given)


def build_folder():
    return pathlib.Path(os.environ.get("DIVERGEN_BUILD", ROOT / "build/release"))
