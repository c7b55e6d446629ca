"""Sync: bring a project's files to the daemon host with rsync, before a run.

    project.py      which directory is the project, and its ID
    program.py      which file is the program, and can it be executed
    plan.py         what goes where (pure)
    git.py          what git ignores, asked of git
    ignore.py       patterns as in .gitignore (pure)
    rules.py        which patterns count in a directory
    listing.py      which files a directory holds that is to be sent
    kinds.py        what is never sent for what it is
    why.py          why a path is sent or is not
    manifest.py     what earlier syncs brought, and what of it is gone here
    tools.py        which rsync there is, and whether it is new enough
    process.py      one external process, fed, read and stopped
    mux.py          OpenSSH's multiplexing protocol, the few requests psync needs
    shell.py        words quoted for a remote shell
    destination.py  where ssh goes (pure)
    ssh.py          the shared ssh connection
    rsync.py        one transfer: its command line and its process
    progress.py     what rsync prints while it works (pure)
    blame.py        what ssh and rsync say when they fail, as psync's errors (pure)
    lock.py         one sync of a project at a time
    endpoint.py     where the mirror is: behind ssh, or on this machine
    engine.py       all of it together

Nothing here needs asyncio, so that ``psync run`` can start rsync before it imports the rest.
"""
