"""Whom Trapeze is measured against."""
import shutil


def qemu(*options):
    """{'qemu tcg': command} to run QEMU's emulator with these options, or {} where it is not installed."""
    program = shutil.which('qemu-system-x86_64')
    common = [program, '-accel', 'tcg', '-cpu', 'max', '-nographic', '-no-reboot', '-net', 'none']
    return {'qemu tcg': [*common, *options]} if program else {}
