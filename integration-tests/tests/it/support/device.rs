//! A device of raw MQTT packets.
