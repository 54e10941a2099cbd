#!/usr/bin/env bash
# A Slurm of one node on this machine, to try profiles/slurm on: one_node_slurm.sh start|stop, as root, Debian's packages
# slurm-wlm and munge installed. It writes /etc/slurm/slurm.conf, and refuses where one is there that is not its own.
set -euo pipefail
conf=/etc/slurm/slurm.conf
mark="# made by tests/cluster/one_node_slurm.sh"
state=/var/tmp/neurons-one-node-slurm
host=$(hostname -s)

die() { echo "one_node_slurm.sh: $1" >&2; exit 1; }

start() {
  [ "$(id -u)" = 0 ] || die "needs root: its daemons run as root"
  for program in munged slurmctld slurmd sbatch; do
    command -v "$program" >/dev/null || die "no $program: apt-get install slurm-wlm munge"
  done
  [ ! -e "$conf" ] || grep -qxF "$mark" "$conf" || die "$conf is there already: this machine has a Slurm of its own"
  mkdir -p /etc/slurm "$state/state" "$state/spool" /run/munge
  chown munge /run/munge
  cat >"$conf" <<CONF
$mark
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$state/state
SlurmdSpoolDir=$state/spool
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd.pid
SlurmctldLogFile=$state/slurmctld.log
SlurmdLogFile=$state/slurmd.log
ReturnToService=2
MpiDefault=none
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(($(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo) / 1200)) State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
  pgrep -x munged >/dev/null || su munge -s /bin/sh -c munged
  pgrep -x slurmctld >/dev/null || slurmctld -c
  pgrep -x slurmd >/dev/null || slurmd
  for _ in $(seq 30); do
    if srun -n1 --immediate=5 true 2>/dev/null; then echo "one node: $(sinfo -h -o '%N %T')"; return; fi
    sleep 1
  done
  die "the node does not answer: see $state/slurmctld.log and $state/slurmd.log"
}

stop() {
  for name in slurmctld slurmd; do
    [ -f "$state/$name.pid" ] || continue
    pid=$(cat "$state/$name.pid")
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done  # it still writes its state
  done
  [ ! -f /run/munge/munged.pid ] || kill "$(cat /run/munge/munged.pid)" 2>/dev/null || true
  if [ -e "$conf" ] && grep -qxF "$mark" "$conf"; then rm "$conf"; fi
  rm -rf "$state"
}

case ${1:-} in start | stop) "$1" ;; *) die "start or stop" ;; esac
