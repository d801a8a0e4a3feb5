#!/bin/bash
# ModelZoo's script for a full training on one device:
#   bash test/train_full_1p.sh --data_path=DIR --output_path=DIR [--batch_size=N] [--train_epochs=N] [--emotion=NAME]
# Its flags and its exit code are those of ../modelarts_entry_acc.py.
exec "${PYTHON:-python3}" "$(dirname "${BASH_SOURCE[0]}")/../modelarts_entry_acc.py" "$@"
