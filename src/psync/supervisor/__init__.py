"""One process per run that owns it: pipes, output log, exit record and every descendant.

Theory of operation. The daemon starts one *launcher* before it has threads or an event loop
(``launcher``). For each run the daemon makes a run directory with a ``spec.json`` (``record``) and
sends its path to the launcher, which forks a *supervisor*: a new session, no tie to launcher or
daemon. The supervisor starts the program (``program``), appends whatever it writes to the output
log (``logwriter``), and listens on the run's unix socket ``ctl`` for a daemon (``channel``,
``wire``). A daemon reads the log from the files (``log``), never through the supervisor, so the
supervisor does not know how many clients there are nor where they are; it is told only below which
offset nobody needs the output any more. Any daemon may die at any time; the next one connects to
``ctl`` and goes on. When the program has ended, no descendant of it is left alive (``tree``), the
pipes are read to their end, ``exit.json`` is written, and the supervisor exits.

Standard library only, and little of it: each import is paid for in every run's memory. Nothing here
imports anything of psync outside this package; the daemon may import ``wire``, ``log``, ``record``,
``tree`` and, to start it, ``launcher``.
"""
