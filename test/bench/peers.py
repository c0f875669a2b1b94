"""Whom Trapeze is measured against."""
import shutil


def qemu(*options, network=False):
    """{'qemu tcg': command} to run QEMU's emulator with these options, or {} where it is not installed. Without network
    it has no card, which it would have by itself."""
    program = shutil.which('qemu-system-x86_64')
    common = [program, '-accel', 'tcg', '-cpu', 'max', '-nographic', '-no-reboot',
              *([] if network else ['-net', 'none'])]
    return {'qemu tcg': [*common, *options]} if program else {}
