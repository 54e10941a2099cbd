"""What is tried on purpose: kills, full disks, damage, hostile names. docs/faults.md lists it all with its outcome."""
