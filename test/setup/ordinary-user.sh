# An ordinary user with a service manager and an unlocked keyring, as on a machine that is booted: sourced as root in
# a session with a system manager of its own.

. "$(dirname "${BASH_SOURCE[0]}")/waiting.sh"

user=resident
uid=4711
user_home=/var/tmp/$user

as_user() {
  setpriv --reuid $uid --regid $uid --clear-groups env -i PATH="$PATH" LANG=C.UTF-8 HOME=$user_home USER=$user \
    LOGNAME=$user XDG_RUNTIME_DIR=/run/user/$uid DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/$uid/bus "$@"
}

make_user() {
  local entry
  for entry in "passwd $user:x:$uid:$uid::$user_home:/bin/bash" "group $user:x:$uid:"; do
    cp "/etc/${entry%% *}" "/run/${entry%% *}"
    echo "${entry#* }" >>"/run/${entry%% *}"
    mount --bind "/run/${entry%% *}" "/etc/${entry%% *}"
  done
  mkdir -p $user_home/.config/systemd/user $user_home/.local/share/keyrings /run/user/$uid /var/lib/systemd/linger
  touch /var/lib/systemd/linger/$user
  # A second keyring daemon would be locked.
  ln -s /dev/null $user_home/.config/systemd/user/gnome-keyring-daemon.service
  ln -s /dev/null $user_home/.config/systemd/user/gnome-keyring-daemon.socket
  chown -R $uid:$uid $user_home /run/user/$uid
  chmod 700 $user_home /run/user/$uid
}

# Without PAM and logind, as user@.service does it otherwise.
start_manager() {
  cat >/etc/systemd/system/user-manager.service <<UNIT
[Service]
User=$user
Type=notify
Environment=XDG_RUNTIME_DIR=/run/user/$uid
ExecStart=/lib/systemd/systemd --user
Delegate=yes
LimitCORE=0
UNIT
  systemctl daemon-reload
  systemctl start user-manager.service
  as_user systemctl --user start dbus.service
}
