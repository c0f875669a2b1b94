"""Talk to a program as a person at its terminal would: wait for a text, type an answer.

    with Program(['trapeze', 'run', ...], limit=300) as machine:
        machine.out.expect('login: ')
        machine.send('root\\n')
        status = machine.wait()

Everything has a time limit, and a Program never outlives its `with`.
"""
import os
import re
import subprocess
import threading
import time


class Failed(Exception):
    """What was waited for did not come; the text says what, and what came last."""


class Stream:
    """Collects what comes from a file descriptor (its own from now on), on a thread of its own, until it ends."""

    def __init__(self, fd, name, limit, echo=None):
        self.fd, self.name, self.limit, self.echo = fd, name, limit, echo
        self.text = ''  # everything so far, without carriage returns
        self.seen = 0  # how much of it expect() has gone past
        self.ended = False
        self.news = threading.Condition()
        threading.Thread(target=self._collect, daemon=True).start()

    def _collect(self):
        while True:
            try:
                data = os.read(self.fd, 65536)
            except OSError:  # a pty whose other side is gone
                data = b''
            if data and self.echo:
                self.echo.buffer.write(data)
                self.echo.flush()
            with self.news:
                self.text += data.decode(errors='replace').replace('\r', '')
                self.ended = not data
                self.news.notify_all()
            if not data:
                os.close(self.fd)
                return

    def expect(self, pattern, limit=None):
        """Wait for the regular expression in what has not been seen yet and go past it; returns the match."""
        deadline = time.monotonic() + (limit or self.limit)
        with self.news:
            while not (match := re.compile(pattern, re.M).search(self.text, self.seen)):
                left = deadline - time.monotonic()
                if self.ended or left <= 0:
                    why = 'it ended' if self.ended else f'{limit or self.limit} s went by'
                    raise Failed(f'waited on {self.name} for {pattern!r}, but {why}; last came: {self.text[-2000:]!r}')
                self.news.wait(left)
            self.seen = match.end()
            return match

    def all(self):
        """Wait for the end; returns everything."""
        with self.news:
            if not self.news.wait_for(lambda: self.ended, self.limit):
                raise Failed(f'{self.name} did not end; last came: {self.text[-2000:]!r}')
            return self.text


class Program:
    """A running program with its standard input and output as pipes. Each wait is limited to `limit` seconds."""

    def __init__(self, command, limit, echo=None, env=None):
        self.command, self.limit = command, limit
        # Its output may end before it does and the other way round (a child may hold it): both are waited for.
        self.process = subprocess.Popen(command, bufsize=0, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE)
        self.out = Stream(os.dup(self.process.stdout.fileno()), 'standard output', limit, echo)
        self.err = Stream(os.dup(self.process.stderr.fileno()), 'standard error', limit, echo)
        self.process.stdout.close()
        self.process.stderr.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        try:
            self.process.stdin.close()
        except OSError:
            pass

    def send(self, text):
        self.process.stdin.write(text.encode())

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, limit=None):
        """Wait for the end; returns the exit status (negative: the signal that killed it)."""
        try:
            status = self.process.wait(limit or self.limit)
        except subprocess.TimeoutExpired:
            raise Failed(f'{self.command[0]} did not end in {limit or self.limit} s; last came: '
                         f'{self.out.text[-2000:]!r} and on standard error: {self.err.text[-500:]!r}') from None
        self.out.all()
        self.err.all()
        return status
