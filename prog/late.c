// Libraries that are loaded when they are first called, not when the program starts: with what they bring along they
// are most of what the loader would have to do, and a machine without a user network, whose control socket nobody asks,
// needs none of them. (Measured: start-up to the guest's first instruction would take half as long again.)
//
// Each function that the program calls stands in a table, and a stub of its name is linked in place of the library: it
// jumps through the table, and at the first call asks late_resolve(), which loads the library and looks all of its
// functions up. So nobody who calls sees a difference. Where a library is not installed, the program ends with one line
// as the loader would have ended it.
//
// What is resolved belongs to the process, as the loader's own tables do. Any thread may be the first.
//
// Example: the program calls slirp_new(&config, ...): its stub finds null, libslirp is loaded, and the arguments arrive
// as they were.
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#define SLIRP(F)                                                                                                       \
    F(slirp_add_hostfwd) F(slirp_cleanup) F(slirp_input) F(slirp_new) F(slirp_pollfds_fill) F(slirp_pollfds_poll)
#define WEBSOCKETS(F)                                                                                                  \
    F(lws_add_http_common_headers)                                                                                     \
    F(lws_adopt_descriptor_vhost)                                                                                      \
    F(lws_adopt_socket_vhost)                                                                                          \
    F(lws_callback_http_dummy)                                                                                         \
    F(lws_callback_on_writable)                                                                                        \
    F(lws_cancel_service)                                                                                              \
    F(lws_context_destroy)                                                                                             \
    F(lws_context_user)                                                                                                \
    F(lws_create_context)                                                                                              \
    F(lws_create_vhost)                                                                                                \
    F(lws_finalize_write_http_header)                                                                                  \
    F(lws_get_context)                                                                                                 \
    F(lws_hdr_copy)                                                                                                    \
    F(lws_hdr_total_length)                                                                                            \
    F(lws_http_transaction_completed)                                                                                  \
    F(lws_return_http_status)                                                                                          \
    F(lws_rx_flow_control)                                                                                             \
    F(lws_service)                                                                                                     \
    F(lws_set_log_level)                                                                                               \
    F(lws_set_timeout)                                                                                                 \
    F(lws_write)
#define EXT2FS(F)                                                                                                      \
    F(ext2fs_dir_iterate)                                                                                              \
    F(ext2fs_file_close)                                                                                               \
    F(ext2fs_file_open)                                                                                                \
    F(ext2fs_file_read) F(ext2fs_free) F(ext2fs_namei_follow) F(ext2fs_open) F(ext2fs_read_inode)
#define CRYPTO(F)                                                                                                      \
    F(EVP_DigestFinal_ex)                                                                                              \
    F(EVP_DigestInit_ex)                                                                                               \
    F(EVP_DigestUpdate)                                                                                                \
    F(EVP_MD_CTX_free)                                                                                                 \
    F(EVP_MD_CTX_new)                                                                                                  \
    F(EVP_sha256)                                                                                                      \
    F(ERR_clear_error)                                                                                                 \
    F(ERR_error_string_n)                                                                                              \
    F(ERR_get_error) F(ERR_reason_error_string) F(OPENSSL_cleanse) F(X509_VERIFY_PARAM_set1_ip_asc)
#define SSL(F)                                                                                                         \
    F(SSL_CTX_check_private_key)                                                                                       \
    F(SSL_CTX_ctrl)                                                                                                    \
    F(SSL_CTX_free)                                                                                                    \
    F(SSL_CTX_load_verify_locations)                                                                                   \
    F(SSL_CTX_new)                                                                                                     \
    F(SSL_CTX_set_ciphersuites)                                                                                        \
    F(SSL_CTX_set_num_tickets)                                                                                         \
    F(SSL_CTX_set_psk_client_callback)                                                                                 \
    F(SSL_CTX_set_psk_server_callback)                                                                                 \
    F(SSL_CTX_set_session_id_context)                                                                                  \
    F(SSL_CTX_set_verify)                                                                                              \
    F(SSL_CTX_use_PrivateKey_file)                                                                                     \
    F(SSL_CTX_use_certificate_chain_file)                                                                              \
    F(SSL_ctrl)                                                                                                        \
    F(SSL_do_handshake)                                                                                                \
    F(SSL_free)                                                                                                        \
    F(SSL_get0_param)                                                                                                  \
    F(SSL_get_error)                                                                                                   \
    F(SSL_get_ex_data)                                                                                                 \
    F(SSL_new)                                                                                                         \
    F(SSL_pending)                                                                                                     \
    F(SSL_read)                                                                                                        \
    F(SSL_set1_host)                                                                                                   \
    F(SSL_set_accept_state)                                                                                            \
    F(SSL_set_connect_state)                                                                                           \
    F(SSL_set_ex_data)                                                                                                 \
    F(SSL_set_fd)                                                                                                      \
    F(SSL_shutdown)                                                                                                    \
    F(SSL_write)                                                                                                       \
    F(TLS_client_method)                                                                                               \
    F(TLS_server_method)

enum { FUNCTIONS_MAX = 32, SLIRP_NUMBER = 0, WEBSOCKETS_NUMBER, EXT2FS_NUMBER, CRYPTO_NUMBER, SSL_NUMBER };

// Where each function is; the stubs jump through these.
#define POINTER(name) __attribute__((used, visibility("hidden"))) _Atomic(void *) late_##name;
SLIRP(POINTER);
WEBSOCKETS(POINTER);
EXT2FS(POINTER);
CRYPTO(POINTER);
SSL(POINTER);

static const struct {
    const char *file; // names are the build's: those of the libraries that were there then
    struct {
        const char *name;
        _Atomic(void *) *where;
    } function[FUNCTIONS_MAX];
} libraries[] = {
#define ENTRY(name) {#name, &late_##name},
    [SLIRP_NUMBER] = {LATE_SLIRP, {SLIRP(ENTRY)}},    [WEBSOCKETS_NUMBER] = {LATE_WEBSOCKETS, {WEBSOCKETS(ENTRY)}},
    [EXT2FS_NUMBER] = {LATE_EXT2FS, {EXT2FS(ENTRY)}}, [CRYPTO_NUMBER] = {LATE_CRYPTO, {CRYPTO(ENTRY)}},
    [SSL_NUMBER] = {LATE_SSL, {SSL(ENTRY)}},
};

void late_resolve(unsigned library);

__attribute__((used)) void late_resolve(unsigned library)
{
    void *handle = dlopen(libraries[library].file, RTLD_LAZY | RTLD_LOCAL);
    for (unsigned n = 0; handle && n < FUNCTIONS_MAX && libraries[library].function[n].name; n++) {
        void *at = dlsym(handle, libraries[library].function[n].name);
        if (!at)
            handle = NULL;
        else
            atomic_store_explicit(libraries[library].function[n].where, at, memory_order_release);
    }
    if (!handle) {
        fprintf(stderr, "trapeze: %s\n", dlerror());
        _exit(127); // as the loader does
    }
}

// Keeps whatever arguments there may be, in general and vector registers, over the call. Entered by a call from a stub.
__asm__(".pushsection .text\n"
        "late_enter:\n"
        "    push %rdi; push %rsi; push %rdx; push %rcx; push %r8; push %r9; push %rax\n"
        "    sub $136, %rsp\n"
        "    movups %xmm0, (%rsp); movups %xmm1, 16(%rsp); movups %xmm2, 32(%rsp); movups %xmm3, 48(%rsp)\n"
        "    movups %xmm4, 64(%rsp); movups %xmm5, 80(%rsp); movups %xmm6, 96(%rsp); movups %xmm7, 112(%rsp)\n"
        "    mov %r11d, %edi\n"
        "    call late_resolve\n"
        "    movups (%rsp), %xmm0; movups 16(%rsp), %xmm1; movups 32(%rsp), %xmm2; movups 48(%rsp), %xmm3\n"
        "    movups 64(%rsp), %xmm4; movups 80(%rsp), %xmm5; movups 96(%rsp), %xmm6; movups 112(%rsp), %xmm7\n"
        "    add $136, %rsp\n"
        "    pop %rax; pop %r9; pop %r8; pop %rcx; pop %rdx; pop %rsi; pop %rdi\n"
        "    ret\n"
        ".popsection");

#define STUB(name, number)                                                                                             \
    __asm__(".pushsection .text\n"                                                                                     \
            ".globl " #name "\n.hidden " #name "\n.type " #name ", @function\n" #name ":\n"                            \
            "    cmpq $0, late_" #name "(%rip)\n"                                                                      \
            "    jne 1f\n"                                                                                             \
            "    mov $" #number ", %r11d\n"                                                                            \
            "    call late_enter\n"                                                                                    \
            "1:  jmp *late_" #name "(%rip)\n"                                                                          \
            ".popsection");
// Numbers as above, for the assembler.
_Static_assert(SLIRP_NUMBER == 0 && WEBSOCKETS_NUMBER == 1 && EXT2FS_NUMBER == 2 && CRYPTO_NUMBER == 3 &&
                   SSL_NUMBER == 4,
               "see STUB");
#define SLIRP_STUB(name) STUB(name, 0)
#define WEBSOCKETS_STUB(name) STUB(name, 1)
#define EXT2FS_STUB(name) STUB(name, 2)
#define CRYPTO_STUB(name) STUB(name, 3)
#define SSL_STUB(name) STUB(name, 4)
SLIRP(SLIRP_STUB);
WEBSOCKETS(WEBSOCKETS_STUB);
EXT2FS(EXT2FS_STUB);
CRYPTO(CRYPTO_STUB);
SSL(SSL_STUB);
