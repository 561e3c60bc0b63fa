#!/bin/sh
# Every built-in task once, a few steps on a few items each: sh examples/tasks.sh [DATA_DIR]
# The items come from DATA_DIR (TASK/SPLIT.jsonl with the hub's field names), or from the hub where none is given.
# A task that cannot be read says so in a line, and the next one follows.

blob-pyro fit examples/task.yaml --data.task tweets --output runs/tasks/tweets
local=${1:+--data.data_dir "$1"}
blob-pyro fit examples/task.yaml --data.task winogrande_s $local --output runs/tasks/winogrande_s
blob-pyro fit examples/task.yaml --data.task winogrande_m $local --output runs/tasks/winogrande_m
blob-pyro fit examples/task.yaml --data.task arc_easy $local --output runs/tasks/arc_easy
blob-pyro fit examples/task.yaml --data.task arc_challenge $local --output runs/tasks/arc_challenge
blob-pyro fit examples/task.yaml --data.task openbookqa $local --output runs/tasks/openbookqa
blob-pyro fit examples/task.yaml --data.task boolq $local --output runs/tasks/boolq
blob-pyro fit examples/task.yaml --data.task mmlu/college_physics --data.num_train 8 $local --output runs/tasks/mmlu
blob-pyro fit examples/task.yaml --data.task commonsense_qa $local --output runs/tasks/commonsense_qa
blob-pyro fit examples/task_encoder.yaml --data.task rte $local --output runs/tasks/rte
blob-pyro fit examples/task_encoder.yaml --data.task mrpc $local --output runs/tasks/mrpc
blob-pyro fit examples/task_encoder.yaml --data.task wic $local --output runs/tasks/wic
blob-pyro fit examples/task_encoder.yaml --data.task cola $local --output runs/tasks/cola
