#!/bin/sh
# Runs the study on a machine without a network, from the folders that `python -m experiments.real_lm carry` made:
#   sh experiments/real_lm/machine.sh take .carry/0                     keeps what a folder brings
#   sh experiments/real_lm/machine.sh study .carry/1 OUT [OPTIONS ...]  takes the last folder and runs the study
# OUT gets all results in bundle.json, and the log. OPTIONS go to `python -m experiments.real_lm run`.
set -eu
place=${REAL_LM_PLACE:-/tmp/real-lm}
work=$1
mkdir -p "$place/model" "$place/site"
cp -r "$2"/. "$place/"
export PYTHONPATH="$place/site" HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=3
if ls "$2"/wheels/*.whl >/dev/null 2>&1; then
  python3 -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$place/site" "$2"/wheels/*.whl
fi
# The package is read from the checkout; records ask for its version.
mkdir -p "$place/site/softprompt-0.1.0.dist-info"
printf 'Metadata-Version: 2.1\nName: softprompt\nVersion: 0.1.0\n' >"$place/site/softprompt-0.1.0.dist-info/METADATA"
python3 -m experiments.real_lm run --help >/dev/null
[ "$work" = study ] || exit 0
out=$3
shift 3
model=$(python3 - "$place" <<'PYTHON'
import lzma, pathlib, sys
place = pathlib.Path(sys.argv[1])
parts = sorted(place.glob("*.xz.*"), key=lambda part: int(part.suffix[1:]))
target = place / "model" / parts[0].name.partition(".xz.")[0]
target.write_bytes(lzma.decompress(b"".join(part.read_bytes() for part in parts)))
print(target)
PYTHON
)
# Once, before several processes ask for it: the weights are dequantised into a cache.
python3 -c 'import softprompt, sys; softprompt.load_backbone(sys.argv[1], device="cpu")' "$model"
python3 -m experiments.real_lm run --model "$model" --data-root "$place/data" --work "$place/work" \
  --bundle "$out/bundle.json" "$@" 2>&1 | tee "$out/log.txt"
