# Runs in a booted Debian as root, with the debs of two versions in /packages:
# the life of a package beside a running systemd. The first thing that is not
# as it should be ends it; the test reads what was printed.
set -eu
fail() { echo "FAILED: $*"; systemctl --no-pager status firn || true; journalctl --no-pager -u firn -n 50 || true; exit 1; }
is() { [ "$2" = "$3" ] || fail "$1 is \"$2\", not \"$3\""; }
step() { echo "== $*"; }
wait_for() { # what, command
	what=$1; shift
	for _ in $(seq 600); do
		if "$@" >/dev/null 2>&1; then return; fi
		sleep 0.2
	done
	fail "$what: not within two minutes"
}
serves() { wait_for "firn serves" firn topic list; }
main_pid() { systemctl show -P MainPID firn; }

step install
dpkg -i /packages/old.deb
is "owner of the data folder" "$(stat -c '%U:%G %a' /var/lib/firn)" "firn:firn 750"
is "mode of the secrets" "$(stat -c '%U:%G %a' /etc/firn/firn.env)" "root:root 600"
is "shell of firn" "$(getent passwd firn | cut -d: -f7)" /usr/sbin/nologin
is "the service after the installation" "$(systemctl is-active firn || true) $(systemctl is-enabled firn || true)" "inactive disabled"

step start
systemctl enable --now firn
serves
pid=$(main_pid)
is "user of the broker" "$(stat -c %U /proc/"$pid")" firn
for want in "CapEff: 0000000000000000" "NoNewPrivs: 1" "Seccomp: 2"; do
	grep -q "^$(echo "$want" | sed 's/ /[[:space:]]*/')$" /proc/"$pid"/status || fail "no $want in $(cat /proc/"$pid"/status)"
done
most=$(awk '/^Max open files/ { print $5 }' /proc/1/limits) # systemd's own: it may be less in a container
is "its open files" "$(awk '/^Max open files/ { print $4 }' /proc/"$pid"/limits)" $((most < 1048576 ? most : 1048576))
is "its OOM score" "$(systemctl show -P OOMScoreAdjust firn)" -600
firn topic create kept --partitions 2 --config remote.storage.enable=true
printf 'one\ntwo\nthree\n' | firn produce kept
is "records" "$(firn consume kept --from start --until end | sort | tr '\n' ' ')" "one three two "
nsenter -t "$pid" -m sh -c 'touch /etc/firn/x 2>/dev/null || touch /usr/x 2>/dev/null || touch /home/x 2>/dev/null' && fail "the broker's file system is not read-only"
journalctl --no-pager -u firn | grep -q "is ready" || fail "no log in the journal"

step killed
kill -9 "$pid"
wait_for "another process" sh -c "p=\$(systemctl show -P MainPID firn); [ \"\$p\" != 0 ] && [ \"\$p\" != $pid ]"
serves
is "records" "$(firn consume kept --from start --until end | wc -l)" 3

step upgrade
echo "# by the administrator" >> /etc/firn/firn.yaml
pid=$(main_pid)
dpkg -i /packages/new.deb > /tmp/upgrade 2>&1
cat /tmp/upgrade
grep -q "still runs version 0.0.0+0.old" /tmp/upgrade || fail "the upgrade does not tell that a restart is needed"
is "the process after the upgrade" "$(main_pid)" "$pid"
grep -q "^# by the administrator" /etc/firn/firn.yaml || fail "the upgrade took the administrator's settings"
is "the service after the upgrade" "$(systemctl is-active firn) $(systemctl is-enabled firn)" "active enabled"
systemctl restart firn
serves
[ "$(main_pid)" != "$pid" ] || fail "it did not restart"

step "wrong settings"
cp /etc/firn/firn.yaml /tmp/right.yaml
echo "no-such-setting: 1" >> /etc/firn/firn.yaml
systemctl restart firn || true
wait_for "the service fails" systemctl is-failed firn
sleep 6 # longer than RestartSec: it must not be tried again
is "exit code" "$(systemctl show -P ExecMainStatus firn)" 2
is "tries" "$(systemctl show -P NRestarts firn)" 0
cp /tmp/right.yaml /etc/firn/firn.yaml
systemctl start firn
serves

step stop
systemctl stop firn
is "how it ended" "$(systemctl show -P Result firn)" success
journalctl --no-pager -u firn -n 5 | grep -q "stopped cleanly" || fail "no clean stop in the journal"

step remove
systemctl start firn
serves
dpkg -r firn
[ ! -e /usr/bin/firn ] || fail "the binary is still there"
is "the service after the removal" "$(systemctl is-active firn || true)" inactive
[ ! -e /etc/systemd/system/multi-user.target.wants/firn.service ] || fail "it is still enabled"
[ -e /etc/firn/firn.yaml ] || fail "the removal took the settings"

step "install again"
dpkg -i /packages/new.deb
systemctl start firn
serves
is "records" "$(firn consume kept --from start --until end | wc -l)" 3

step purge
dpkg -P firn > /tmp/purge 2>&1
cat /tmp/purge
grep -q "records in /var/lib/firn are left" /tmp/purge || fail "the purge does not tell of the records"
[ ! -e /etc/firn ] || fail "the purge left $(find /etc/firn)"
[ -n "$(ls /var/lib/firn)" ] || fail "the purge took the records"
rm -r /var/lib/firn
dpkg -i /packages/new.deb
dpkg -P firn
[ ! -e /var/lib/firn ] || fail "the purge left an empty folder"
echo "== ALL DONE"
