"""The demo's storm: the same events, mishaps and kills against a task, and what the mail server saw of it.

`plan` says what happens, `publishers` and `crew` are the processes, `chaos` strikes them, `figures` counts, and
`storm` runs it all and shows how far it is.
"""
