"""The worker: a separate Python process that runs torch for the panel, and the client that drives it.

`server` is the process, `client.WorkerClient` what the panel talks to, `process` one life of the process as Qt sees
it, `messages` what the two say to each other (JSON lines) and `files` the folder through which the arrays go.
Importing this package is cheap; only `client` and `process` know Qt, and only the server imports torch.
"""
