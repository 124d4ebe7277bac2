"""The queue: jobs, their ledger, the store of files, and the sandbox that reads uploads."""
