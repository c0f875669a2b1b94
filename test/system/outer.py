"""A machine with hardware virtualization where the host has none: QEMU's translator with AMD's SVM, Debian's cloud
kernel and its KVM, and Trapeze inside.

    with outer.machine(folder, 'trapeze run --engine kvm ...', {'/guest': path}) as machine:
        machine.out.expect('...')

What runs in there meets the semantics of real hardware virtualization: nested page tables, intercepts, interrupt
windows, a real boundary between kernel and monitor. It is slow: an exit takes some 40 us. It has one CPU, for with two
QEMU was seen to hang. QEMU does not intercept XSETBV, and has neither PCID nor VME, so the models there are those without (MODEL).
"""
import re
import shutil
import subprocess

import console
import lab

LIMIT = 240  # seconds
# The best model that can be given there.
MODEL = 'x86-64-v2,-vme,-pcid,-umip,-rdpid'


def libraries(program):
    """The shared libraries of a program and its loader, as {path in the guest: file}."""
    listed = subprocess.run(['ldd', program], capture_output=True, text=True, check=False).stdout
    return {path: path for path in re.findall(r'(?:=> |^\s+)(/\S+)', listed, re.M)}


def machine(folder, commands, files=None):
    """Start it with commands as its init, `trapeze` among its programs and /dev/kvm ready; use it in a `with`."""
    qemu = shutil.which('qemu-system-x86_64')
    if not qemu:
        lab.missing('qemu-system-x86_64 is not installed')
    programs = {'trapeze': lab.TRAPEZE, **libraries(lab.TRAPEZE), **(files or {})}
    initramfs = lab.initramfs(folder / 'outer', 'dmesg -n 1\n' + commands, ['kvm_amd'], programs)
    return console.Program([qemu, '-accel', 'tcg', '-cpu', 'EPYC,+svm', '-smp', '1', '-m', '1024',
                            '-kernel', lab.kernel() / 'vmlinuz', '-initrd', initramfs,
                            '-append', 'console=ttyS0 quiet panic=-1 tsc=reliable', '-no-reboot',
                            '-nodefaults', '-display', 'none', '-serial', 'stdio'], LIMIT)
