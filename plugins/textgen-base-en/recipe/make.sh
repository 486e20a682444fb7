#!/usr/bin/env bash
# Make base-en again: bash recipe/make.sh DATA WORK
#
# DATA holds the archives that sources.tsv names; WORK receives everything that is made, the model as WORK/model. About
# 90 minutes on two cores, 2 GB of memory. The same command goes on after an interruption.
set -euo pipefail
recipe=$(dirname "$0") data=$1 work=$2
mkdir -p "$work"

[ -f "$work/text/train.jsonl" ] || python "$recipe/prepare.py" "$data" "$work/text"

[ -f "$work/tokens/manifest.json" ] || textgen tokenize "$work/text/train.jsonl" --text-column text \
    --validation-file "$work/text/held-out.jsonl" --tokenizer bpe --vocab-size 3000 --output-dir "$work/tokens"

if [ -f "$work/run/training_args.json" ]; then
    textgen train --resume "$work/run"
else
    textgen train "$work/tokens" --output-dir "$work/run" --cell lstm --hidden-size 768 --embedding-size 512 \
        --epochs 1.4 --batch-size 64 --seq-length 64 --learning-rate 0.004 --warmup-steps 200 \
        --dropout 0 --embedding-dropout 0 --weight-drop 0 --weight-decay 0.01 --average-weights 0 \
        --dtype bfloat16 --seed 1 --sample-steps 0 --eval-steps 1000 --save-steps 500
fi

textgen quantize "$work/run" "$work/model" --dtype float16 --overwrite
python "$recipe/publish.py" "$work/model"
