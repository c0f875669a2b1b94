"""A machine with hardware virtualization where the host has none: an emulator whose CPU has it, Debian's cloud kernel and
its KVM, and Trapeze inside.

    with outer.machine(folder, 'trapeze run --engine kvm ...', {'/guest': path}) as machine:
        machine.out.expect('...')

What runs in there meets the semantics of real hardware virtualization: nested page tables, intercepts, interrupt
windows, a real boundary between kernel and monitor. The variable BED says whose:

    svm (default)  QEMU's translator, AMD's SVM. An exit takes some 40 us. It has one CPU, for with two QEMU was seen to
                   hang. It does not intercept XSETBV, and has neither PCID nor VME, so models there are without.
    vmx            Bochs, Intel's VMX: ten times slower. An interrupt does not get a guest out that has its own
                   interrupts closed, so nothing there may loop like that.
"""
import os
import pathlib
import re
import shutil
import subprocess

import console
import lab

BED = os.environ.get('BED', 'svm')
LIMIT = {'svm': 240, 'vmx': 900}[BED]  # seconds
# The best model that can be given there.
MODEL = {'svm': 'x86-64-v2,-vme,-pcid,-umip,-rdpid', 'vmx': 'x86-64-v2,-smap,-rdpid'}[BED]
MODULE = {'svm': 'kvm_amd', 'vmx': 'kvm_intel'}[BED]
APPEND = 'console=ttyS0 quiet panic=-1 tsc=reliable'

BOCHS = """plugin_ctrl: sb16=false, speaker=false
display_library: rfb, options="timeout=0"
cpu: model=corei7_haswell_4770, count=1, ips=50000000, reset_on_triple_fault=0, ignore_bad_msrs=1
megs: 1024
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
ata0-master: type=cdrom, path={folder}/outer.iso, status=inserted
boot: cdrom
clock: sync=none
com1: enabled=1, mode=file, dev=/dev/fd/3
log: {folder}/log
panic: action=fatal
"""


def libraries(program):
    """The shared libraries of a program and its loader, as {path in the guest: file}."""
    listed = subprocess.run(['ldd', program], capture_output=True, text=True, check=False).stdout
    return {path: path for path in re.findall(r'(?:=> |^\s+)(/\S+)', listed, re.M)}


def needs(program, package):
    path = shutil.which(program)
    if not path:
        lab.missing(f'{program} is not installed (package {package})')
    return path


def qemu(folder, initramfs):
    return [needs('qemu-system-x86_64', 'qemu-system-x86'), '-accel', 'tcg', '-cpu', 'EPYC,+svm', '-smp', '1',
            '-m', '1024', '-kernel', lab.kernel() / 'vmlinuz', '-initrd', initramfs, '-append', APPEND, '-no-reboot',
            '-nodefaults', '-display', 'none', '-serial', 'stdio']


def bochs(folder, initramfs):
    """It boots from a CD that GRUB starts; its serial port goes to standard output, what it says itself to a file."""
    program, rescue = needs('bochs', 'bochs'), needs('grub-mkrescue', 'grub-pc-bin')
    needs('xorriso', 'xorriso')
    needs('mformat', 'mtools')
    grub = folder / 'iso' / 'boot' / 'grub'
    grub.mkdir(parents=True)
    shutil.copy(lab.kernel() / 'vmlinuz', grub.parent / 'vmlinuz')
    shutil.copy(initramfs, grub.parent / 'initrd')
    (grub / 'grub.cfg').write_text(f'linux /boot/vmlinuz {APPEND}\ninitrd /boot/initrd\nboot\n')
    subprocess.run([rescue, '-o', folder / 'outer.iso', folder / 'iso'], check=True, capture_output=True)
    (folder / 'rc').write_text(BOCHS.format(folder=folder))
    (folder / 'continue').write_text('c\n')  # the debugger's first command
    return ['sh', '-c', 'exec "$0" -q -f "$1/rc" -rc "$1/continue" 3>&1 >"$1/said" 2>&1', program, str(folder)]


def machine(folder, commands, files=None):
    """Start it with commands as its init, `trapeze` among its programs and /dev/kvm ready; use it in a `with`."""
    folder = pathlib.Path(folder)
    programs = {'trapeze': lab.TRAPEZE, **libraries(lab.TRAPEZE), **(files or {})}
    initramfs = lab.initramfs(folder / 'outer', 'dmesg -n 1\n' + commands, [MODULE], programs)
    return console.Program({'svm': qemu, 'vmx': bochs}[BED](folder, initramfs), LIMIT)
