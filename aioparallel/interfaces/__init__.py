"""The interfaces that come with aioparallel; the contract is in `aioparallel.interface`."""
