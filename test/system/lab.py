"""The laboratory of the system tests: boots guests on the trapeze program and looks at what they do.

A system test is a script `NAME TRAPEZE [CASE...]`. It holds functions marked @case, each of which raises when something
is wrong, and ends with lab.main(). Results are told in TAP: `ok 1 - name`. Where something is missing that is no part
of Trapeze, the test ends with status 77 and a last line that says what.

Most guests are a Debian kernel with an initramfs made here: busybox and an /init that runs the shell commands under
test, then powers off. Interpreting a boot takes long on a busy machine, so time limits are generous.
"""
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import traceback

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tools'))
import console  # noqa: E402  (the path above leads to it)

LIMIT = 600  # seconds that a guest may take for anything
TRAPEZE = pathlib.Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else None
CASES = []


def case(function):
    CASES.append(function)
    return function


def missing(what):
    """End the test as skipped."""
    print(what)
    sys.exit(77)


class Skipped(Exception):
    """A case cannot be tried here; the text says what is missing."""


def wants(condition, text):
    if not condition:
        raise AssertionError(text)


def guest(name):
    """The folder that holds a guest of tools/guests, made now if it is not there yet."""
    made = subprocess.run([ROOT / 'tools' / 'guest', name], capture_output=True, text=True, check=False)
    if made.returncode:
        missing(f'the guest {name} cannot be made: {made.stderr.strip()}')
    return pathlib.Path(made.stdout.strip())


def kernel():
    """The folder with Debian's cloud kernel: vmlinuz, vmlinux, modules."""
    return guest('kernel')


def modules_in_order(wanted):
    """The files of these kernel modules and of those that they depend on, in an order in which they can be loaded."""
    folder, order = kernel() / 'modules', []

    def add(name):
        file = folder / f'{name}.ko'
        if not file.exists():
            file = folder / f'{name.replace("_", "-")}.ko'
        # A module tells what it depends on by a string depends=name,name,...
        depends = re.search(rb'\0depends=([^\0]*)\0', file.read_bytes()).group(1).decode()
        for other in filter(None, depends.split(',')):
            add(other)
        if file not in order:
            order.append(file)

    for name in wanted:
        add(name)
    return order


def cpio(entries):
    """A cpio archive in the format that Linux unpacks (newc). entries: (path, mode with type, bytes)."""
    archive = bytearray()
    for number, (path, mode, data) in enumerate(entries + [('TRAILER!!!', 0, b'')], 1):
        name = path.encode() + b'\0'
        fields = [number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0]
        archive += b'070701' + b''.join(b'%08x' % field for field in fields) + name
        archive += bytes(-len(archive) % 4) + data
        archive += bytes(-len(archive) % 4)
    return bytes(archive)


def initramfs(target, commands, modules=(), programs=None):
    """Write an initramfs to target. Its init loads modules, says `guest: up`, runs the shell commands and powers off.

    The commands may use `wait_for PATH`, for devices that appear when they are ready.
    modules: names of kernel modules; those that they depend on come with them.
    programs: name in /bin -> file on the host; they must be static, or bring what they need by their path in the
    guest (`{'/lib/libc.so.6': ...}`)."""
    busybox = shutil.which('busybox')
    if not busybox:
        missing('busybox is not installed (package busybox-static)')
    if b'/ld-linux' in pathlib.Path(busybox).read_bytes():
        missing(f'{busybox} is not static (package busybox-static)')
    applets = subprocess.run([busybox, '--list'], capture_output=True, text=True, check=True).stdout.split()
    init = ['#!/bin/sh', 'mount -t proc proc /proc', 'mount -t sysfs sysfs /sys', 'mount -t devtmpfs devtmpfs /dev']
    files = modules_in_order(modules)
    init += [f'insmod /modules/{file.name}' for file in files]
    init += ['wait_for() { until [ -e "$1" ]; do sleep 0.1; done; }', 'echo "guest: up"', commands, 'poweroff -f', '']
    entries = [(folder, stat.S_IFDIR | 0o755, b'') for folder in ('bin', 'proc', 'sys', 'dev', 'tmp', 'modules')]
    entries += [('init', stat.S_IFREG | 0o755, '\n'.join(init).encode()),
                ('bin/busybox', stat.S_IFREG | 0o755, pathlib.Path(busybox).read_bytes())]
    entries += [(f'bin/{applet}', stat.S_IFLNK | 0o777, b'busybox') for applet in applets if applet != 'busybox']
    entries += [(f'modules/{file.name}', stat.S_IFREG | 0o644, file.read_bytes()) for file in files]
    for name, source in (programs or {}).items():
        path = name.lstrip('/') if '/' in name else f'bin/{name}'
        folders = [parent.as_posix() for parent in reversed(pathlib.PurePath(path).parents)][1:]
        known = {entry[0] for entry in entries}
        entries += [(folder, stat.S_IFDIR | 0o755, b'') for folder in folders if folder not in known]
        entries.append((path, stat.S_IFREG | 0o755, pathlib.Path(source).read_bytes()))
    pathlib.Path(target).write_bytes(cpio(entries))
    return target


def run(*arguments, limit=LIMIT, echo=None):
    """Start `trapeze run` with these arguments; use it in a `with`."""
    return console.Program([TRAPEZE, 'run'] + [str(argument) for argument in arguments], limit, echo)


def boot(folder, commands, *arguments, image='vmlinux', append='console=ttyS0', modules=(), programs=None,
         reboot=False):
    """Start Debian's kernel with commands as its init; more arguments go to trapeze. A panic or reset ends the machine,
    unless reboot."""
    return run('--kernel', kernel() / image, '--initrd', initramfs(folder / 'initramfs', commands, modules, programs),
               '--append', f'{append} panic=-1', '--memory', '512M', *([] if reboot else ['--no-reboot']), *arguments)


def overlay(path, base, kind='qcow2'):
    """A new qcow2 image at path whose contents are those of base, for as long as nothing is written."""
    tool = shutil.which('qemu-img') or missing('qemu-img is not installed (package qemu-utils)')
    subprocess.run([tool, 'create', '-q', '-f', 'qcow2', '-b', base, '-F', kind, path], check=True)
    return path


def debian_shell(*arguments, limit=LIMIT):
    """Boot Debian with a shell as its init, on the disk that arguments give first; use it in a `with`. The shell's
    prompt is `guest> `; `off` ends the machine."""
    folder = guest('debian')
    machine = run('--kernel', folder / 'vmlinuz', '--initrd', folder / 'initrd.img', '--append',
                  'root=/dev/vda rw console=ttyS0 quiet panic=-1 init=/bin/bash', '--memory', '512M', '--no-reboot',
                  *arguments, limit=limit)
    machine.out.expect(r'root@\(none\):/# ')
    machine.send("off() { sync; mount -o remount,ro /; poweroff -ff; }; bind 'set enable-bracketed-paste off'\n")
    machine.send("PS1='guest> '\n")
    machine.out.expect('^guest> ')
    return machine


def ends_well(machine):
    """Wait until the guest has powered off: exit status 0 and nothing on standard error."""
    status = machine.wait()
    wants(status == 0, f'exit status {status}, not 0; standard error: {machine.err.text[-1000:]!r}')
    wants(machine.err.text == '', f'standard error should be empty: {machine.err.text[-1000:]!r}')


def complains(status, words, arguments, wrapper=()):
    """Run trapeze with arguments: it must end with status and one line on standard error that holds the words."""
    command = [*wrapper, str(TRAPEZE)] + [str(argument) for argument in arguments]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    lines = ended.stderr.splitlines()
    wants(ended.returncode == status and len(lines) == 1 and not ended.stdout,
          f'wanted exit status {status} and one line on standard error, got {ended.returncode} and {lines} '
          f'(standard output: {ended.stdout[-500:]!r})')
    wants(re.match('trapeze( [a-z]+)*: ', lines[0]), f'does not say who speaks: {lines[0]!r}')
    for word in words:
        wants(re.search(word, lines[0]), f'should tell of {word!r}: {lines[0]!r}')


def main():
    """Run the cases (or those named on the command line), each with a temporary folder of its own."""
    if TRAPEZE is None:
        sys.exit(f'usage: {sys.argv[0]} TRAPEZE [CASE...]')
    if not os.access(TRAPEZE, os.X_OK):
        missing(f'{TRAPEZE} is not built')
    chosen = [function for function in CASES if len(sys.argv) == 2 or function.__name__ in sys.argv[2:]]
    failed = 0
    print(f'1..{len(chosen)}')
    for number, function in enumerate(chosen, 1):
        name = function.__name__.replace('_', ' ')
        try:
            with tempfile.TemporaryDirectory(prefix='trapeze-') as folder, \
                    tempfile.TemporaryDirectory(prefix='trapeze-state-') as state:
                os.environ['XDG_STATE_HOME'] = state  # machines of others have names, too
                function(pathlib.Path(folder))
            print(f'ok {number} - {name}', flush=True)
        except Skipped as reason:
            print(f'ok {number} - {name} # SKIP {reason}', flush=True)
        except (AssertionError, console.Failed, subprocess.TimeoutExpired) as problem:
            failed += 1
            print(f'not ok {number} - {name}\n# {problem}', flush=True)
        except Exception:  # the test itself is at fault: tell where
            failed += 1
            print(f'not ok {number} - {name}\n# ' + traceback.format_exc().replace('\n', '\n# '), flush=True)
    sys.exit(1 if failed else 0)
