#!/usr/bin/env bash
# A Ray cluster over the nodes of a Slurm allocation, and one command on it:
#
#   sbatch --nodes=4 --ntasks-per-node=1 --gpus-per-node=8 scripts/slurm_ray.sh \
#       vtpbench run experiment=dstp_table1 executor=ray
#
# The command finds the cluster by RAY_ADDRESS. Results must lie where the first node can write; all nodes need this
# environment, and the models, at the same paths.
set -euo pipefail
if [[ $# -eq 0 || -z ${SLURM_JOB_ID:-} ]]; then
    echo "usage, inside a Slurm allocation: $0 vtpbench run ... executor=ray" >&2
    exit 2
fi

nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
head=${nodes[0]}
port=${RAY_PORT:-6379}
address=$(srun --nodes=1 --ntasks=1 --overlap -w "$head" hostname --ip-address | awk '{print $1}')
cpus=${SLURM_CPUS_ON_NODE:-1}
# Nobody else on the network may give this cluster work; srun hands the variables to all nodes.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=${RAY_AUTH_TOKEN:-$(od -vAn -N32 -tx1 /dev/urandom | tr -d ' \n')}
on() { srun --nodes=1 --ntasks=1 --overlap --cpus-per-task="$cpus" -w "$@"; }

on "$head" ray start --head --node-ip-address="$address" --port="$port" --num-cpus="$cpus" \
    --include-dashboard=false --block &
sleep 20
for node in "${nodes[@]:1}"; do
    on "$node" ray start --address="$address:$port" --num-cpus="$cpus" --block &
done

export RAY_ADDRESS=$address:$port
until ray status >/dev/null 2>&1; do sleep 2; done
until [[ $(ray status 2>/dev/null | grep -c '^ *1 node_') -ge ${#nodes[@]} ]]; do sleep 2; done
status=0
on "$head" "$@" || status=$?
ray stop >/dev/null
exit "$status"
