#!/bin/sh
# acpi.sh DUMP: the ACPI tables as ACPICA sees them. Each must disassemble; the DSDT must compile again without errors or
# warnings; and ACPICA's interpreter must load the namespace and give the answers that an operating system asks for.
set -eu
dump=$(realpath "$1")
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

fail() {
    echo "$*" >&2
    exit 1
}

for config in '1 0' '2 3' '64 32'; do
    echo "== cpus, virtio-mmio devices: $config"
    rm -f "$dir"/*
    # shellcheck disable=SC2086 # two numbers
    "$dump" $config "$dir"
    cd "$dir"
    for table in *.aml; do
        iasl -d "$table" >"$table.log" 2>&1 || { cat "$table.log"; fail "$table: does not disassemble"; }
        if grep -Ei 'error|warning|invalid|could not' "$table.log"; then fail "$table: complaints above"; fi
    done
    iasl -p again dsdt.dsl >compile.log 2>&1 || { cat compile.log; fail "dsdt: does not compile again"; }
    grep -q '0 Errors, 0 Warnings' compile.log || { cat compile.log; fail "dsdt: errors or warnings"; }
    cmp -s dsdt.aml again.aml || echo "(the compiler encodes the DSDT otherwise: $(stat -c %s dsdt.aml again.aml | xargs))"

    acpiexec -b 'execute \_SB.PCI0._PRT; execute \_PIC 1; execute \_SB.PCI0._PRT; execute \_SB.PCI0._CRS; execute \_S5' \
        dsdt.aml >exec.log 2>&1 || { cat exec.log; fail "acpiexec failed"; }
    if grep -E 'AE_[A-Z]|ACPI (Error|Warning|BIOS Error)' exec.log | grep -v AE_OK; then fail "acpiexec: complaints above"; fi
    # Slot 1, pin A: PIC line 11 at first, GSI 17 once the system has said that it uses the IOAPIC.
    grep -q '000000000000000B' exec.log || fail "_PRT in PIC mode lacks line 11"
    grep -q '0000000000000011' exec.log || fail "_PRT in APIC mode lacks GSI 17"
    # The address of the generation, and the event that says that it has changed.
    acpiexec -b 'execute \_SB.VGEN.ADDR; execute \_SB.GED0._CRS; execute \_SB.GED0._EVT 5' dsdt.aml >event.log 2>&1 ||
        { cat event.log; fail "acpiexec failed"; }
    grep -q '00000000000FF000' event.log || fail "ADDR is not the generation's"
    grep -q 'Received a Device Notify on \[VGEN\].*Value 0x80' event.log || { cat event.log; fail "_EVT does not notify"; }
    cd /
done
