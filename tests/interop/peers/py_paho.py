"""An MQTT client by paho-mqtt over a WebSocket: stays for so many seconds, then says what it saw, as JSON.

It answers each Ping without masking its Pong, which RFC 6455 5.1 forbids.
"""

import json
import queue
import sys
import time

import paho.mqtt.client as mqtt

TOPIC, PATIENCE = "holdline/interop", 20


def main():
    port, path, seconds = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    messages, disconnects = queue.Queue(), []
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, transport="websockets")
    client.ws_set_options(path=path)
    client.on_connect = lambda client, *_: client.subscribe(TOPIC)
    client.on_subscribe = lambda *_: messages.put("subscribed")
    client.on_message = lambda _client, _data, message: messages.put(message.payload.decode())
    client.on_disconnect = lambda _client, _data, _flags, code, _properties: disconnects.append(str(code))
    client.connect("127.0.0.1", port, keepalive=60)
    client.loop_start()
    seen = [messages.get(timeout=PATIENCE)]
    time.sleep(seconds)
    client.publish(TOPIC, "still here")
    seen.append(messages.get(timeout=PATIENCE))
    lost = list(disconnects)
    client.disconnect()
    client.loop_stop()
    print(json.dumps({"seen": seen, "disconnects": lost}))


if __name__ == "__main__":
    main()
