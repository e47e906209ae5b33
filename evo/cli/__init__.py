"""The command `evo`: `app` has the commands, `config` the schema of run.toml."""
