# Runs as root in a Debian where no systemd runs, and with "bare" none of its
# programs is there: the life of a package with what dpkg alone has.
set -eu
fail() { echo "FAILED: $*"; exit 1; }
is() { [ "$2" = "$3" ] || fail "$1 is \"$2\", not \"$3\""; }
export DEBIAN_FRONTEND=noninteractive
dpkg -i /packages/old.deb
is "owner of the data folder" "$(stat -c '%U:%G %a' /var/lib/firn)" "firn:firn 750"
is "shell of firn" "$(getent passwd firn | cut -d: -f7)" /usr/sbin/nologin
is "home of firn" "$(getent passwd firn | cut -d: -f6)" /var/lib/firn
echo "# by the administrator" >> /etc/firn/firn.yaml
dpkg -i /packages/new.deb
grep -q "^# by the administrator" /etc/firn/firn.yaml || fail "the upgrade took the administrator's settings"

# What the unit would start, as its user.
start=$(sed -n 's/^ExecStart=//p' /usr/lib/systemd/system/firn.service)
cd /var/lib/firn
setpriv --reuid=firn --regid=firn --clear-groups --no-new-privs env -i HOME=/var/lib/firn PATH=/usr/local/bin:/usr/bin $start > /tmp/firn.log 2>&1 &
pid=$!
for _ in $(seq 600); do
	if firn topic list >/dev/null 2>&1; then break; fi
	kill -0 $pid || fail "firn ended: $(cat /tmp/firn.log)"
	sleep 0.2
done
firn topic create kept --partitions 2
printf 'one\ntwo\nthree\n' | firn produce kept
is "records" "$(firn consume kept --from start --until end | wc -l)" 3
kill -TERM $pid
wait $pid || fail "firn ended with $?: $(cat /tmp/firn.log)"
is "owner of what it wrote" "$(find /var/lib/firn ! -user firn | head -3)" ""

dpkg -r firn
[ ! -e /usr/bin/firn ] || fail "the binary is still there"
[ -e /etc/firn/firn.yaml ] || fail "the removal took the settings"
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
