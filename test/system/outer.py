"""A machine with hardware virtualization where the host has none: QEMU's translator with AMD's SVM, Debian's cloud
kernel and its KVM, and Trapeze inside.

    with outer.machine(folder, 'trapeze run --engine kvm ...', files={'/guest': path}) as machine:
        machine.out.expect('...')

What runs in there meets the semantics of real hardware virtualization: nested page tables, intercepts, an interrupt
window, a real boundary between kernel and monitor. It is slow: some 40 us for an exit. One CPU, for with two of them
QEMU was seen to hang.
"""
import re
import shutil
import subprocess

import console
import lab

LIMIT = 280
CPU = 'EPYC,+svm'


def libraries(program):
    """The shared libraries of a program and its loader, as {path in the guest: file}."""
    listed = subprocess.run(['ldd', program], capture_output=True, text=True, check=False).stdout
    return {path: path for path in re.findall(r'(?:=> |^\s+)(/\S+)', listed, re.M)}


def machine(folder, commands, files=None):
    """Start it with commands as its init, `trapeze` among its programs and /dev/kvm ready; use it in a `with`."""
    qemu = shutil.which('qemu-system-x86_64') or lab.missing('qemu-system-x86_64 is not installed')
    programs = {'trapeze': lab.TRAPEZE, **libraries(lab.TRAPEZE), **(files or {})}
    initramfs = lab.initramfs(folder / 'outer', commands, ['kvm_amd'], programs)
    return console.Program([qemu, '-accel', 'tcg', '-cpu', CPU, '-smp', '1', '-m', '1024', '-kernel', lab.kernel() / 'vmlinuz',
                            '-initrd', initramfs, '-append', 'console=ttyS0 panic=-1 tsc=reliable quiet', '-nodefaults',
                            '-display', 'none', '-serial', 'stdio', '-no-reboot'], LIMIT)
