// The commands below `trapeze image`, for image.c alone, and what building for `trapeze run` needs. Each takes the
// arguments after its name and returns the exit status.
#pragma once
#include "image/store.h"

int image_build(int argc, char **argv);
int image_import_command(int argc, char **argv);
int image_resize_command(int argc, char **argv);
int image_convert_command(int argc, char **argv);
int image_ls(int argc, char **argv);
int image_rm(int argc, char **argv);
int image_info(int argc, char **argv);

// Tells a failure of `trapeze image NAME` and returns the status for it.
int image_failed(const char *name, int e, const struct error *err);
// Builds Debian as `trapeze image build debian` without options does: with what this program brings for it.
struct progress;
int image_build_default(const struct store *s, const struct progress *p, struct image_record *out, struct error *err);
void image_print_made(const struct image_record *r); // one line on standard output
