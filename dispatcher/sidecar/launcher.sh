# The item loop. It stands between the platform and the user's script, in pods (as PID 1 of the user's own image) and as
# local processes, so it is POSIX sh and needs no other program: dash, busybox ash and bash --posix are tested.
#
# An item is a folder with `env`, a file of exports that the supervisor wrote. The launcher runs /bin/sh SCRIPT, standard
# input at its end, output and errors merged into the item's `log`, writes the exit code to `code`, which is the truth, and
# says so on the FIFO `alive`, which is the doorbell.
#
#   sh launcher.sh RUN SCRIPT                 in a pod: RUN has the FIFOs `alive` and `ack` and the folders items/N
#       says `hello`; waits on `ack` for `ready N` or `skip N`, N = 0, 1, ...; says `exit N CODE`; ends by `done [CODE]`.
#       It relays the output to its own and listens to `cancel N` while the item runs: one read is ended by the item's
#       own `end N` or by the supervisor's word.
#   sh launcher.sh --lane WORK ALIVE <words   local: serves one Job after the other, each in WORK/NAME
#       reads `run NAME N` from descriptor 9; runs WORK/NAME/script.sh in the foreground (the supervisor sees and kills
#       the processes itself); says `NAME exit N CODE`; ends when nobody holds the other end of descriptor 9 any more.
#
# Words may come from user code, which has the same user id: a word that is not the one waited for is dropped, and an end
# counts only when the code file is there. Names start with _pk_: assigning a name that is in the environment exports it.

unset IFS

if [ "$1" = --lane ]; then
  _pk_work=$2
  exec 8<>"$3"
  # A trap, unlike an ignored signal, is not inherited: a script may signal its own group and take the consequences.
  trap : TERM HUP INT
  while read -r _pk_verb _pk_name _pk_n <&9; do
    _pk_item=$_pk_work/$_pk_name/$_pk_n
    # A word said again after a crash finds the code there. An empty file is one that the supervisor keeps from before.
    [ "$_pk_verb" = run ] && [ -r "$_pk_item/env" ] && [ ! -s "$_pk_item/code" ] || continue
    . "$_pk_item/env"
    # From here on it counts as started, and is never started again. Appended: a file that is made empty and written again
    # is sent to the disk at once by some file systems.
    echo - >>"$_pk_item/code"
    /bin/sh "$_pk_work/$_pk_name/script.sh" </dev/null >>"$_pk_item/log" 2>&1 8>&- 9<&-
    _pk_code=$?
    echo "$_pk_code" >>"$_pk_item/code"
    # The empty line: bytes that user code left in the FIFO without a line end cannot swallow the word.
    echo "
$_pk_name exit $_pk_n $_pk_code" >&8
  done
  exit 0
fi

_pk_run=$1 _pk_script=$2
_pk_n=0 _pk_child='' _pk_oom=0 _pk_relay='' _pk_told=''

# `input` makes them, `ack` last, before anything else, so they are there nearly always. An image without `sleep` looks
# again at once.
_pk_pause=:
! command -v sleep >/dev/null 2>&1 || _pk_pause='sleep 0.1'
while [ ! -p "$_pk_run/ack" ]; do $_pk_pause 2>/dev/null || sleep 1; done

# Read-write on both: opening never blocks and a reader that is away for a while loses nothing.
exec 8<>"$_pk_run/alive" 9<>"$_pk_run/ack"

_pk_say() {
  echo "
$1" >&8
}

# As PID 1 of a pod a signal must be passed on by us, and reaches everything in the container; elsewhere the script alone.
_pk_signal() {
  if [ "$$" = 1 ]; then
    kill "-$1" -1
  elif read -r _pk_pid <"$_pk_item/pid"; then
    kill "-$1" "$_pk_pid"
  fi
} 2>/dev/null

# `output` may hear the item's end before it hears itself that the pod is being taken away, so the end says so.
_pk_term() {
  [ -n "$_pk_child" ] || exit 143
  _pk_told=' term'
  _pk_signal TERM
}
trap _pk_term TERM
trap : HUP INT

# Out of memory on cgroup v1 kills the script alone, so the launcher can tell by the counter (v2 kills the container).
_pk_count_oom() {
  _pk_kills=0
  for _pk_file in /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control; do
    [ -r "$_pk_file" ] || continue
    while read -r _pk_key _pk_value; do
      [ "$_pk_key" = oom_kill ] && _pk_kills=$_pk_value
    done <"$_pk_file"
    return
  done
}

# Waits for the word of this item; 0 = run it, 1 = skip it. What is meant for another item is dropped. A read that a signal
# ended is begun again.
_pk_wait() {
  while :; do
    read -r _pk_verb _pk_arg _pk_more <&9 || continue
    case $_pk_verb in
      ready) [ "$_pk_arg" = "$_pk_n" ] && [ -r "$_pk_item/env" ] && return 0 ;;
      skip) [ "$_pk_arg" = "$_pk_n" ] && return 1 ;;
      done)
        case $_pk_arg in
          '' | *[!0-9]* | ????*) exit 0 ;;
          *) exit "$_pk_arg" ;;
        esac
        ;;
    esac
  done
}

# Runs the script for the item's own shell. Its pid is kept for a cancel; TERM sent to everything ends `wait` early, hence
# the loop: a script may take its time over TERM and end with a code of its own.
_pk_user_script() {
  trap : TERM HUP INT # a pipeline's own shell starts without the traps of the one around it
  /bin/sh "$_pk_script" 2>&1 9>&- &
  echo "$!" >"$_pk_item/pid"
  while :; do
    wait "$!"
    _pk_code=$?
    kill -0 "$!" 2>/dev/null || break
  done
  echo "$_pk_code" >"$_pk_item/ended"
}

# Background run for pods. The end of tee is the end of everything that holds the script's output: OSCAR's notion of
# completion. The item's own shell writes the code and then wakes the one read in _pk_finish.
_pk_start() {
  (
    trap : TERM HUP INT
    exec 8>&- </dev/null
    . "$_pk_item/env"
    case $_pk_relay in
      tee) _pk_user_script | (trap '' TERM; exec tee -a "$_pk_item/log" 9>&-) ;;
      cat) _pk_user_script >>"$_pk_item/log"; cat "$_pk_item/log" 9>&- ;;
      *) _pk_user_script >>"$_pk_item/log" ;;
    esac
    read -r _pk_code <"$_pk_item/ended" || _pk_code=137
    echo "$_pk_code" >"$_pk_item/code"
    echo "
end $_pk_n" >&9
  ) &
  _pk_child=$!
}

# The one wait: for the item's end, or for a cancel (the first is TERM, each further one KILL). An item whose shell was
# killed cannot say `end`, so it is looked for after each word; a supervisor in doubt sends any word.
_pk_finish() {
  _pk_stop=TERM
  while :; do
    read -r _pk_verb _pk_arg _pk_more <&9 || _pk_verb=''
    if [ "$_pk_verb" = cancel ] && [ "$_pk_arg" = "$_pk_n" ]; then
      _pk_signal "$_pk_stop"
      # KILL to everything took the item's shell too: nobody is left to say `end`.
      [ "$$" = 1 ] && [ "$_pk_stop" = KILL ] && break
      _pk_stop=KILL
    fi
    [ "$_pk_verb" = end ] && [ "$_pk_arg" = "$_pk_n" ] && [ -s "$_pk_item/code" ] && break
    kill -0 "$_pk_child" 2>/dev/null || break
  done
  while kill -0 "$_pk_child" 2>/dev/null; do wait "$_pk_child"; done
  _pk_child=''
  _pk_code=''
  [ ! -s "$_pk_item/code" ] || read -r _pk_code <"$_pk_item/code"
  [ -n "$_pk_code" ] || { _pk_code=137 && echo 137 >"$_pk_item/code"; }
}

for _pk_tool in tee cat; do
  [ -n "$_pk_relay" ] || ! command -v "$_pk_tool" >/dev/null 2>&1 || _pk_relay=$_pk_tool
done
_pk_chmod=$(command -v chmod 2>/dev/null)
_pk_count_oom
_pk_oom=$_pk_kills
_pk_say hello

while :; do
  _pk_item=$_pk_run/items/$_pk_n
  if _pk_wait; then
    _pk_start
    _pk_finish
    # `output` is another user and must be able to read what the script wrote, whatever its umask.
    [ -z "$_pk_chmod" ] || chmod -R a+rwX "$_pk_item/out" 2>/dev/null
    _pk_count_oom
    _pk_reason=''
    [ "$_pk_kills" = "$_pk_oom" ] || _pk_reason=' oom'
    _pk_oom=$_pk_kills
    _pk_say "exit $_pk_n $_pk_code$_pk_reason$_pk_told"
  fi
  _pk_n=$((_pk_n + 1))
done
