// The commands of the trapeze program. Each takes the arguments after its name and returns the exit status.
#pragma once

enum { STATUS_OK = 0, STATUS_FAILED = 1, STATUS_USAGE = 2, STATUS_CRASHED = 3 };

struct restore;

// trapeze run with these options; restore (NULL: none): from this snapshot, the caller's. Exit status.
int run_machine(int argc, char **argv, struct restore *restore);

int command_run(int argc, char **argv);
int command_start(int argc, char **argv);
int command_restart(int argc, char **argv);
int command_ps(int argc, char **argv);
int command_logs(int argc, char **argv);
int command_console(int argc, char **argv);
int command_stats(int argc, char **argv);
int command_stop(int argc, char **argv);
int command_kill(int argc, char **argv);
int command_pause(int argc, char **argv);
int command_resume(int argc, char **argv);
int command_balloon(int argc, char **argv);
int command_rm(int argc, char **argv);
int command_inspect(int argc, char **argv);
int command_image(int argc, char **argv);
int command_snapshot(int argc, char **argv);
int command_clone(int argc, char **argv);
int command_restore(int argc, char **argv);
int command_export(int argc, char **argv);
int command_import(int argc, char **argv);
int command_migrate(int argc, char **argv);
int command_receive(int argc, char **argv);
int command_exec(int argc, char **argv);
int command_cp(int argc, char **argv);
int command_connect(int argc, char **argv);
int command_ssh(int argc, char **argv);
int command_doctor(int argc, char **argv);
int command_switch(int argc, char **argv);
