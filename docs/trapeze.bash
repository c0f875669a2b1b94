# Completion of trapeze's commands, options, machines and images in bash.
#
# It knows no command and no option: it asks the program for its help, which is made of the tables that the options are
# parsed by. Machines and images are directories, listed without asking anybody.

# What there is below the directory that is given: machines, or images. Names that begin with a dot are none.
_trapeze_names() {
    local entry
    for entry in "$1"/*/; do
        entry=${entry%/}
        [[ -d $entry ]] && printf '%s\n' "${entry##*/}"
    done
}

# The words that begin the indented lines of a help: commands.
_trapeze_commands() {
    sed -n 's/^  \([a-z][a-z-]*\)  .*/\1/p' <<<"$1"
}

# The name of the value that an option takes, from a help: "FILE", "on|off"; nothing if it takes none.
_trapeze_value() {
    local pattern='^ +(-., )?--([a-z-]+)( ([^ ]+))?' line
    while IFS= read -r line; do
        if [[ $line =~ $pattern ]] && [[ $2 == "--${BASH_REMATCH[2]}" || "$2, " == "${BASH_REMATCH[1]}" ]]; then
            printf '%s\n' "${BASH_REMATCH[4]}"
            return
        fi
    done <<<"$1"
}

_trapeze() {
    local program=${COMP_WORDS[0]} current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    local command=${COMP_WORDS[1]} help usage value='' words=''
    COMPREPLY=()
    help=$("$program" --help 2>/dev/null) || return
    if ((COMP_CWORD == 1)); then
        mapfile -t COMPREPLY < <(compgen -W "$(_trapeze_commands "$help") --help --version" -- "$current")
        return
    fi
    _trapeze_commands "$help" | grep -qxF -e "$command" || return
    help=$("$program" "$command" --help 2>/dev/null) || return
    # Commands of a command: image build. Then the next word is one, or has its own help.
    if [[ $help == "Usage: trapeze $command COMMAND"* ]]; then
        if ((COMP_CWORD == 2)); then
            mapfile -t COMPREPLY < <(compgen -W "$(_trapeze_commands "$help") --help" -- "$current")
            return
        fi
        help=$("$program" "$command" "${COMP_WORDS[2]}" --help 2>/dev/null) || return
    fi
    # Commands of a command beside its plain use: switch ls. They are in the lines of its usage, and have their own help.
    words=$(sed -n "/^$/q; s/^\(Usage:\|      \) trapeze $command \([a-z][a-z|]*\)\( .*\)\?$/\2/p" <<<"$help")
    words=${words//|/ }
    if ((COMP_CWORD > 2)); then
        if [[ " ${words//$'\n'/ } " == *" ${COMP_WORDS[2]} "* ]]; then
            help=$("$program" "$command" "${COMP_WORDS[2]}" --help 2>/dev/null) || return
        fi
        words=''
    fi
    # --option=VALUE comes as three words.
    if [[ $current == '=' ]]; then
        current=''
    elif [[ $previous == '=' ]] && ((COMP_CWORD > 2)); then
        previous=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    [[ $previous == -* ]] && value=$(_trapeze_value "$help" "$previous")
    usage=${help%%$'\n'*}
    usage=${usage#Usage: trapeze "$command"}
    case $value in
    *[a-z]'|'[a-z]*)
        words=${value//|/ }
        ;;
    FILE* | PATH* | FOLDER* | DIR* | HOSTDIR*)
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        compopt -o filenames 2>/dev/null
        return
        ;;
    ?*)
        return # a number, or a name that nobody has yet
        ;;
    *)
        if [[ $current == -* ]]; then
            words+=" $(grep -oE '^ +(-., )?--[a-z-]+' <<<"$help" | grep -oE -e '--[a-z-]+')"
        else
            # The names that image takes are images'.
            [[ $command == image ]] && usage=${usage//NAME/IMAGE}
            [[ $usage == *NAME* || $usage == *MACHINE* ]] && words+=" $(_trapeze_names "${XDG_STATE_HOME:-$HOME/.local/state}/trapeze")"
            [[ $usage == *IMAGE* ]] && words+=" $(_trapeze_names "${XDG_DATA_HOME:-$HOME/.local/share}/trapeze/images")"
            [[ $usage == *SNAPSHOT* ]] &&
                words+=" $(_trapeze_names "${XDG_DATA_HOME:-$HOME/.local/share}/trapeze/snapshots")"
            # A file in the place of an image or a snapshot is told by its slash.
            if [[ $usage == *SNAPSHOT* || $usage == *IMAGE* ]] && [[ $current != */* ]]; then
                mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
                return
            fi
            if [[ $usage == *FILE* || $usage == *SNAPSHOT* || $usage == *IMAGE* ]]; then
                mapfile -t COMPREPLY < <(compgen -W "$words" -f -- "$current")
                compopt -o filenames 2>/dev/null
                return
            fi
        fi
        ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}

complete -F _trapeze trapeze
